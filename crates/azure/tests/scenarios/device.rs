//! Being a device.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_azure::id::DeviceId;
use berth_azure::{AzureError, IfMatch, Missing, Query, dps, hub};
use serde_json::json;

use super::{Actors, Count, ENROLLMENT, Outcome, device, done, fails, group, many, registration, that, walk};

pub async fn device_registers_and_is_found(actors: &Actors) -> Outcome {
    let id = registration(ENROLLMENT);
    let before = done("get the enrollment", actors.dps.enrollment(&id).await)?;
    let (at, substatus) = actors.register(&id).await?;
    that(at == *actors.hub_a.host(), "hub a", &at)?;
    that(substatus == Some(dps::Substatus::Initial), "an initial assignment", &substatus)?;
    let state = done("get the registration", actors.dps.registration(&id).await)?;
    that(state.status == dps::RegistrationStatus::Assigned, "assigned", &state)?;
    // The enrollment gives the hub another name than DPS has.
    let name = before.device_id.ok_or("expected a device ID in the enrollment, got none")?;
    that(state.device_id.as_ref() == Some(&name), "the device ID of the enrollment", &state)?;
    let identity = done("get the identity at hub a", actors.hub_a.identity(&name).await)?;
    that(identity.is_enabled(), "an enabled identity", &identity)?;
    let looked = done("look up", actors.device(&id).await?.status(None).await)?;
    that(looked.state.assigned_hub == state.assigned_hub, "the same by look-up", &looked)?;
    let (at, _) = actors.register(&id).await?;
    that(at == *actors.hub_a.host(), "hub a again", &at)
}

pub async fn device_moves_when_it_registers_again(actors: &Actors) -> Outcome {
    let id = registration(ENROLLMENT);
    let name = device("scn-Pump+1");
    let tags = hub::TwinChange { tags: Some(json!({"came": "along"})), desired: None };
    done("tag the twin", actors.hub_a.patch_twin(&name, &tags, &IfMatch::Any).await)?;
    let to = actors.hub_b.host().clone();
    actors
        .change(&id, |enrollment| {
            enrollment.iot_hubs = Some(vec![to]);
            enrollment.reprovision_policy = Some(dps::ReprovisionPolicy::migrate());
        })
        .await?;
    let state = done("get the registration before", actors.dps.registration(&id).await)?;
    that(
        state.assigned_hub.as_ref() == Some(actors.hub_a.host()),
        "the old hub until it registers again",
        &state,
    )?;
    let (at, substatus) = actors.register(&id).await?;
    that(at == *actors.hub_b.host(), "hub b", &at)?;
    that(substatus == Some(dps::Substatus::Migrated), "its twin to move along", &substatus)?;
    fails("get it from its old hub", actors.hub_a.identity(&name).await, |error| {
        error.is_missing(Missing::Device)
    })?;
    let twin = done("get its twin from its new hub", actors.hub_b.twin(&name).await)?;
    that(twin.tags.as_ref().is_some_and(|tags| tags["came"] == "along"), "its tags", &twin.tags)
}

pub async fn device_moves_by_policy(actors: &Actors) -> Outcome {
    let id = registration(ENROLLMENT);
    let name = device("scn-Pump+1");
    let (a, b) = (actors.hub_a.host().clone(), actors.hub_b.host().clone());
    let to = a.clone();
    actors
        .change(&id, |enrollment| {
            enrollment.iot_hubs = Some(vec![to]);
            enrollment.reprovision_policy = Some(dps::ReprovisionPolicy::reset());
            enrollment.initial_twin = serde_json::from_value(json!({"tags": {"fresh": true}})).ok();
        })
        .await?;
    let (at, substatus) = actors.register(&id).await?;
    that(at == a && substatus == Some(dps::Substatus::Reset), "a reset at hub a", &(&at, &substatus))?;
    let twin = done("get its twin", actors.hub_a.twin(&name).await)?;
    that(twin.tags == Some(json!({"fresh": true})), "the initial twin", &twin.tags)?;
    actors
        .change(&id, |enrollment| {
            enrollment.iot_hubs = Some(vec![b]);
            enrollment.reprovision_policy = Some(dps::ReprovisionPolicy::never());
        })
        .await?;
    let (at, _) = actors.register(&id).await?;
    that(at == a, "hub a, as it never moves", &at)?;
    // DPS forgets; the hub does not.
    done("forget the registration", actors.dps.delete_registration(&id, &IfMatch::Any).await)?;
    done("the identity stays", actors.hub_a.identity(&name).await)?;
    fails("the registration is gone", actors.dps.registration(&id).await, |e| {
        e.is_missing(Missing::Registration)
    })
}

pub async fn device_polls_while_assigning(actors: &Actors) -> Outcome {
    actors.controls.assign_slowly(true).await?;
    let id = many(1);
    let begun = done("begin", actors.device(&id).await?.begin(None).await)?;
    that(begun.status == dps::RegistrationStatus::Assigning, "assigning", &begun)?;
    that(begun.operation_id.is_some(), "an operation ID", &begun)?;
    let id = many(2);
    let count = Arc::new(Count::default());
    let device = actors.device(&id).await?.within(Duration::from_secs(120)).budget(count.clone());
    let operation = done("register slowly", device.register(None).await)?;
    that(operation.status == dps::RegistrationStatus::Assigned, "assigned in the end", &operation)?;
    that(count.0.load(Ordering::Relaxed) >= 2, "at least one poll", &count.0)?;
    actors.controls.assign_slowly(false).await
}

pub async fn device_of_a_group_has_a_key_of_its_own(actors: &Actors) -> Outcome {
    let attestation = done("get the group's keys", actors.dps.group_attestation(&group()).await)?;
    let keys = attestation.symmetric_key.ok_or("expected keys, got none")?;
    let key = keys.primary_key().ok_or("expected a key, got none")?.map_err(|error| error.to_string())?;
    let id = registration("scn-member-1");
    let member = actors.device_with(&id, key.derive(&id))?;
    let operation = done("register a member", member.register(None).await)?;
    let result = operation.registration_state.ok_or("expected a registration state, got none")?;
    that(result.state.assigned_hub.as_ref() == Some(actors.hub_b.host()), "the group's hub", &result)?;
    that(
        result.state.device_id == Some(DeviceId::from(&id)),
        "its registration ID for a device ID",
        &result,
    )?;
    let pages = walk(actors.dps.registrations(&group(), Query::all())).await?;
    let found =
        pages.iter().flat_map(|page| &page.items).filter(|s| s.registration_id.as_ref() == Some(&id)).count();
    that(found == 1, "the member among the group's registrations", &pages)
}

pub async fn device_is_refused(actors: &Actors) -> Outcome {
    let (id, other) = (many(3), many(4));
    actors
        .change(&id, |enrollment| enrollment.provisioning_status = Some(dps::ProvisioningStatus::Disabled))
        .await?;
    let device = actors.device(&id).await?;
    let operation = done("register a disabled device", device.register(None).await)?;
    that(operation.status == dps::RegistrationStatus::Disabled, "disabled", &operation)?;
    let keys = done("get a key", actors.dps.attestation(&id).await)?
        .symmetric_key
        .ok_or("expected keys, got none")?;
    let key = keys.primary_key().ok_or("expected a key, got none")?.map_err(|error| error.to_string())?;
    let imposter = actors.device_with(&other, key.clone())?;
    fails("register with another's key", imposter.register(None).await, |error| {
        matches!(error, AzureError::Unauthorized { .. })
    })?;
    let stranger = actors.device_with(&registration("scn-stranger"), key)?;
    fails("register without an enrollment", stranger.register(None).await, |error| {
        matches!(error, AzureError::NotFound { .. } | AzureError::Unauthorized { .. })
    })
}
