//! Working with a hub.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use berth_azure::{AzureError, Conflicting, IfMatch, Missing, Query, SharedKey, hub};
use serde_json::json;

use super::{
    Actors, Count, HUB_DEVICE, MANY, Outcome, Presence, device, done, etag, fails, is_stale, that, walk,
};

pub async fn hub_keeps_identities(actors: &Actors) -> Outcome {
    let (hub, id) = (&actors.hub_a, device(HUB_DEVICE));
    fails("get what is not there", hub.identity(&id).await, |error| error.is_missing(Missing::Device))?;
    let stored = done("create", hub.put_identity(&hub::Identity::new(id.clone()), &IfMatch::Absent).await)?;
    let has_keys = stored
        .authentication
        .as_ref()
        .and_then(|a| a.symmetric_key.as_ref())
        .is_some_and(|keys| keys.primary_key.as_ref().is_some_and(|key| SharedKey::decode(key).is_ok()));
    that(has_keys && stored.is_enabled(), "an enabled identity with keys", &stored)?;
    let again = hub.put_identity(&hub::Identity::new(id.clone()), &IfMatch::Absent).await;
    fails("create what exists", again, |error| {
        matches!(error, AzureError::Conflict { conflicting: Conflicting::Device, .. })
            && error.code() == Some(409_001)
    })?;
    let mut read = done("get", hub.identity(&id).await)?;
    that(read.authentication == stored.authentication, "the keys of the create", &"others")?;
    let old = etag(read.etag.as_ref())?;
    read.status = Some(hub::DeviceStatus::Disabled);
    read.status_reason = Some("scenario".into());
    let updated = done("update with the etag", hub.put_identity(&read, &old).await)?;
    that(
        !updated.is_enabled() && updated.etag != read.etag,
        "a disabled identity with another etag",
        &updated,
    )?;
    fails("update with the old etag", hub.put_identity(&read, &old).await, is_stale)?;
    let listed = done("get a disabled identity", hub.identity(&id).await)?;
    that(listed.authentication == stored.authentication, "the keys of the create", &"others")?;
    // Names differ by case.
    let other = device(&HUB_DEVICE.to_ascii_lowercase());
    fails("get in lower case", hub.identity(&other).await, |error| error.is_missing(Missing::Device))?;
    read.status = Some(hub::DeviceStatus::Enabled);
    done("enable it again", hub.put_identity(&read, &IfMatch::Any).await)?;
    let absent = hub::Identity::new(device("scn-none"));
    fails("update what is not there", hub.put_identity(&absent, &IfMatch::Any).await, |error| {
        error.is_missing(Missing::Device)
    })?;
    let nothing = hub.delete_identity(&device("scn-none"), &IfMatch::Any).await;
    fails("delete what is not there", nothing, |error| error.is_missing(Missing::Device))
}

pub async fn hub_changes_identities_in_bulk_and_lists_them(actors: &Actors) -> Outcome {
    let hub = &actors.hub_a;
    let item = |at: usize, mode| hub::BulkDevice::new(device(&format!("scn-bulk-{at}")), mode);
    let mut create: Vec<_> = (0..MANY).map(|at| item(at, hub::BulkDeviceMode::Create)).collect();
    let result = done("bulk create", hub.bulk(&create).await)?;
    that(result.is_successful && result.errors.is_empty(), "no failure", &result)?;
    create.truncate(1);
    create.push(item(MANY, hub::BulkDeviceMode::Create));
    let result = done("bulk create with a clash", hub.bulk(&create).await)?;
    that(!result.is_successful && result.errors.len() == 1, "one failure among two", &result)?;
    that(result.errors[0].device_id == Some(device("scn-bulk-0")), "the one that exists to fail", &result)?;
    actors.controls.settle(hub.host()).await?;
    let pages = walk(hub.twins(Query::new("SELECT * FROM devices").page_items(10))).await?;
    that(
        pages.iter().all(|page| page.items.len() <= 10) && pages.len() >= 3,
        "pages of at most 10",
        &pages.len(),
    )?;
    let found: Vec<_> = pages
        .iter()
        .flat_map(|page| &page.items)
        .map(|twin| twin.device_id.to_string())
        .filter(|id| id.starts_with("scn-bulk-"))
        .collect();
    let names: BTreeSet<_> = found.iter().collect();
    that(names.len() == MANY + 1 && found.len() == names.len(), "each device once", &found)?;
    let statistics = done("statistics", hub.device_statistics().await)?;
    let sum = statistics.enabled_device_count + statistics.disabled_device_count;
    that(statistics.total_device_count == sum, "figures that add up", &statistics)?;
    done("service statistics", hub.service_statistics().await)?;
    let delete: Vec<_> = (0..=MANY).map(|at| item(at, hub::BulkDeviceMode::Delete)).collect();
    let result = done("bulk delete", hub.bulk(&delete).await)?;
    that(result.is_successful, "no failure", &result)
}

pub async fn hub_keeps_twins(actors: &Actors) -> Outcome {
    let (hub, id) = (&actors.hub_a, device(HUB_DEVICE));
    let twin = done("get the twin", hub.twin(&id).await)?;
    let old = etag(twin.etag.as_ref())?;
    let change = hub::TwinChange {
        tags: Some(json!({"stamp": "a", "gone": 1})),
        desired: Some(json!({"interval": 0.1, "deep": {"a": 1, "b": 2}})),
    };
    done("patch the twin", hub.patch_twin(&id, &change, &old).await)?;
    fails("patch with the old etag", hub.patch_twin(&id, &change, &old).await, is_stale)?;
    let change =
        hub::TwinChange { tags: Some(json!({"gone": null})), desired: Some(json!({"deep": {"a": null}})) };
    done("patch whatever there is", hub.patch_twin(&id, &change, &IfMatch::Any).await)?;
    let twin = done("get the twin", hub.twin(&id).await)?;
    that(twin.tags == Some(json!({"stamp": "a"})), "null to remove a tag", &twin.tags)?;
    let desired = twin.properties.and_then(|properties| properties.desired).unwrap_or_default();
    that(desired["interval"] == 0.1 && desired["deep"] == json!({"b": 2}), "merged properties", &desired)?;
    let change = hub::TwinChange { tags: Some(json!({"new": true})), desired: Some(json!({})) };
    let twin = done("replace the twin", hub.replace_twin(&id, &change, &IfMatch::Any).await)?;
    that(twin.tags == Some(json!({"new": true})), "nothing but the new tags", &twin.tags)?;
    fails("the twin of nobody", hub.twin(&device("scn-none")).await, |error| {
        error.is_missing(Missing::Device)
    })
}

pub async fn hub_calls_methods(actors: &Actors) -> Outcome {
    let (hub, id) = (&actors.hub_a, device(HUB_DEVICE));
    let call = hub::MethodCall {
        payload: json!({"n": 7}),
        response_timeout_s: Some(5),
        ..hub::MethodCall::new("echo")
    };
    actors.controls.presence(hub.host(), &id, Presence::Echoes).await?;
    let answer = done("call a device that is online", hub.invoke(&id, &call).await)?;
    that(answer.status == 200 && answer.payload == json!({"n": 7}), "the echo", &answer)?;
    actors.controls.presence(hub.host(), &id, Presence::Offline).await?;
    let count = Arc::new(Count::default());
    let offline = hub.budget(count.clone()).invoke(&id, &call).await;
    fails(
        "call a device that is offline",
        offline,
        |error| matches!(error, AzureError::NotOnline { told } if told.code == Some(404_103) && told.name.as_deref() == Some("DeviceNotOnline")),
    )?;
    that(count.0.load(Ordering::Relaxed) == 1, "one request", &count.0)?;
    fails("call nobody", hub.invoke(&device("scn-none"), &call).await, |error| {
        error.is_missing(Missing::Device) && error.code() == Some(404_001)
    })?;
    // A disabled device answers as if it did not exist.
    let mut identity = done("get", hub.identity(&id).await)?;
    identity.status = Some(hub::DeviceStatus::Disabled);
    done("disable", hub.put_identity(&identity, &IfMatch::Any).await)?;
    fails("call a disabled device", hub.invoke(&id, &call).await, |error| error.code() == Some(404_001))
}

pub async fn hub_throttles_in_passing(actors: &Actors) -> Outcome {
    let (hub, id) = (&actors.hub_a, device(HUB_DEVICE));
    actors.controls.throttle_once(hub.host()).await?;
    let count = Arc::new(Count::default());
    done("a read that is throttled once", hub.budget(count.clone()).identity(&id).await)?;
    that(count.0.load(Ordering::Relaxed) == 2, "two requests, both asked for", &count.0)?;
    actors.controls.throttle_once(hub.host()).await?;
    let once = hub.attempts(1).identity(&id).await;
    fails("a read that is not repeated", once, |error| {
        matches!(error, AzureError::Throttled { .. }) && error.is_retryable()
    })
}
