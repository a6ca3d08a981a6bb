//! Administering a DPS.

use std::collections::BTreeSet;

use berth_azure::{AzureError, Conflicting, IfMatch, Missing, Query, dps};

use super::{
    Actors, ENROLLMENT, MANY, Outcome, device, done, etag, fails, group, is_stale, many, new_enrollment,
    registration, that, walk,
};

pub async fn dps_makes_keys_for_a_new_enrollment(actors: &Actors) -> Outcome {
    let id = registration(ENROLLMENT);
    let mut new = new_enrollment(&id);
    new.iot_hubs = Some(vec![actors.hub_a.host().clone()]);
    let stored = done("create", actors.dps.put_enrollment(&new, &IfMatch::Absent).await)?;
    let keys = stored
        .attestation
        .symmetric_key
        .clone()
        .ok_or("expected keys in the answer to a create, got none")?;
    that(matches!(keys.primary_key(), Some(Ok(_))), "a key of 16 to 64 bytes", &keys)?;
    that(stored.etag.is_some(), "an etag", &stored)?;
    that(stored.registration_state.is_none(), "no registration state in the answer to a write", &stored)?;
    that(
        stored.created_date_time_utc.is_some()
            && stored.created_date_time_utc == stored.last_updated_date_time_utc,
        "created and last updated at the same time",
        &stored,
    )?;
    let read = done("get", actors.dps.enrollment(&id).await)?;
    that(read.attestation.symmetric_key.is_none(), "no keys in a read", &read)?;
    let status = read.registration_state.as_ref().map(|state| &state.status);
    that(
        status == Some(&dps::RegistrationStatus::Unassigned),
        "a registration state that is unassigned",
        &read,
    )?;
    let attestation = done("get the attestation", actors.dps.attestation(&id).await)?;
    that(attestation.symmetric_key == Some(keys), "the keys of the create", &"others")?;
    // The ID's case does not count.
    let lower = done("get in lower case", actors.dps.enrollment(&registration(&id.to_lower())).await)?;
    that(lower.etag == read.etag, "the same enrollment in lower case", &lower)?;
    let never = actors.dps.registration(&id).await;
    fails("the registration of a device that never registered", never, |e| {
        e.is_missing(Missing::Registration)
    })
}

pub async fn dps_guards_an_enrollment_by_its_etag(actors: &Actors) -> Outcome {
    let id = registration(ENROLLMENT);
    let again = actors.dps.put_enrollment(&new_enrollment(&id), &IfMatch::Absent).await;
    fails("create what exists", again, |error| {
        matches!(error, AzureError::Conflict { conflicting: Conflicting::Enrollment, .. })
    })?;
    let mut enrollment = done("get", actors.dps.enrollment(&id).await)?;
    enrollment.attestation = done("get the attestation", actors.dps.attestation(&id).await)?;
    let old = etag(enrollment.etag.as_ref())?;
    enrollment.device_id = Some(device("scn-Pump+1"));
    let stored = done("put with the etag", actors.dps.put_enrollment(&enrollment, &old).await)?;
    that(stored.etag.is_some() && stored.etag != enrollment.etag, "another etag", &stored)?;
    that(
        stored.created_date_time_utc == enrollment.created_date_time_utc,
        "the same time of creation",
        &stored,
    )?;
    that(stored.attestation == enrollment.attestation, "the keys that were sent", &"others")?;
    fails("put with the old etag", actors.dps.put_enrollment(&enrollment, &old).await, is_stale)?;
    fails("delete with the old etag", actors.dps.delete_enrollment(&id, &old).await, is_stale)?;
    done("put whatever there is", actors.dps.put_enrollment(&enrollment, &IfMatch::Any).await)?;
    let read = done("get", actors.dps.enrollment(&id).await)?;
    that(read.device_id == Some(device("scn-Pump+1")), "the device ID that was written", &read)?;
    // Which refusal it is has not been recorded; that it is one has.
    let missing = actors.dps.put_enrollment(&new_enrollment(&registration("scn-none")), &IfMatch::Any).await;
    fails("replace what does not exist", missing, |error| {
        matches!(error, AzureError::NotFound { .. }) || is_stale(error)
    })
}

pub async fn dps_lists_enrollments_page_by_page(actors: &Actors) -> Outcome {
    for at in 0..MANY {
        done(
            "create one of many",
            actors.dps.put_enrollment(&new_enrollment(&many(at)), &IfMatch::Absent).await,
        )?;
    }
    let pages = walk(actors.dps.enrollments(Query::all().page_items(10))).await?;
    that(pages.iter().all(|page| page.items.len() <= 10), "pages of at most 10", &pages.len())?;
    that(pages.len() >= 3, "at least three pages", &pages.len())?;
    let items: Vec<_> = pages.into_iter().flat_map(|page| page.items).collect();
    let ours: Vec<_> =
        items.iter().filter(|item| item.registration_id.to_lower().starts_with("scn-")).collect();
    let names: BTreeSet<String> = ours.iter().map(|item| item.registration_id.to_lower()).collect();
    that(names.len() == MANY + 1 && ours.len() == names.len(), "each enrollment once", &names)?;
    let bare =
        ours.iter().all(|item| item.registration_state.is_none() && item.attestation.symmetric_key.is_none());
    that(bare, "rows without keys and without registrations", &"others")
}

pub async fn dps_changes_enrollments_in_bulk(actors: &Actors) -> Outcome {
    let (first, second) = (registration("scn-bulk-1"), registration("scn-bulk-2"));
    let create = [new_enrollment(&first), new_enrollment(&second), new_enrollment(&many(0))];
    let result = done("bulk create", actors.dps.bulk_enrollments(&dps::BulkMode::Create, &create).await)?;
    that(!result.is_successful && result.errors.len() == 1, "one failure among three", &result)?;
    let clash = &result.errors[0];
    that(clash.registration_id == Some(many(0)), "the one that exists to fail", &result)?;
    that(clash.error_code == Some(409_201), "code 409201", &result)?;
    let mut update = Vec::new();
    for id in [&first, &second] {
        let mut enrollment = done("get before a bulk", actors.dps.enrollment(id).await)?;
        enrollment.attestation = done("get the attestation", actors.dps.attestation(id).await)?;
        enrollment.provisioning_status = Some(dps::ProvisioningStatus::Disabled);
        update.push(enrollment);
    }
    let mode = dps::BulkMode::UpdateIfMatchEtag;
    let result = done("bulk update", actors.dps.bulk_enrollments(&mode, &update).await)?;
    that(result.is_successful && result.errors.is_empty(), "no failure", &result)?;
    let read = done("get after a bulk", actors.dps.enrollment(&first).await)?;
    that(read.provisioning_status == Some(dps::ProvisioningStatus::Disabled), "disabled", &read)?;
    let result = done("bulk update with old etags", actors.dps.bulk_enrollments(&mode, &update).await)?;
    that(!result.is_successful && result.errors.len() == 2, "two failures", &result)?;
    let delete = [new_enrollment(&first), new_enrollment(&second)];
    let result = done("bulk delete", actors.dps.bulk_enrollments(&dps::BulkMode::Delete, &delete).await)?;
    that(result.is_successful, "no failure", &result)?;
    fails("get what bulk removed", actors.dps.enrollment(&first).await, |e| e.is_missing(Missing::Enrollment))
}

pub async fn dps_keeps_groups(actors: &Actors) -> Outcome {
    let mut new = dps::EnrollmentGroup::new(group(), dps::Attestation::symmetric_made_by_dps());
    new.iot_hubs = Some(vec![actors.hub_b.host().clone()]);
    let stored = done("create a group", actors.dps.put_group(&new, &IfMatch::Absent).await)?;
    that(stored.attestation.symmetric_key.is_some(), "keys in the answer to a create", &stored)?;
    fails("create a group that exists", actors.dps.put_group(&new, &IfMatch::Absent).await, |error| {
        matches!(error, AzureError::Conflict { conflicting: Conflicting::EnrollmentGroup, .. })
    })?;
    let mut read = done("get the group", actors.dps.group(&group()).await)?;
    that(read.attestation.symmetric_key.is_none(), "no keys in a read", &read)?;
    let attestation = done("get its attestation", actors.dps.group_attestation(&group()).await)?;
    that(attestation.symmetric_key.is_some(), "keys in the attestation", &attestation)?;
    let old = etag(read.etag.as_ref())?;
    read.attestation = attestation;
    read.provisioning_status = Some(dps::ProvisioningStatus::Enabled);
    done("put the group with its etag", actors.dps.put_group(&read, &old).await)?;
    fails("put the group with its old etag", actors.dps.put_group(&read, &old).await, is_stale)?;
    let pages = walk(actors.dps.groups(Query::all())).await?;
    let found =
        pages.iter().flat_map(|page| &page.items).filter(|item| item.enrollment_group_id == group()).count();
    that(found == 1, "the group once", &found)?;
    let pages = walk(actors.dps.registrations(&group(), Query::all())).await?;
    that(pages.iter().all(|page| page.items.is_empty()), "no registrations yet", &pages)
}

pub async fn dps_refuses_a_wrong_key(actors: &Actors) -> Outcome {
    let read = actors.stranger.enrollment(&registration(ENROLLMENT)).await;
    fails("read with a wrong key", read, |error| matches!(error, AzureError::Unauthorized { .. }))
}
