"""The DPS service API through azure-iot-deviceprovisioning, synchronous: every assertion is about what it returns."""

from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.iot.deviceprovisioning import DeviceProvisioningClient

from checks import DPS, KEY, PORT, check, end, expect

client = DeviceProvisioningClient.from_connection_string(DPS)
enrollment = client.enrollment
seen = {}


def body(registration_id, **more):
    return {
        "registrationId": registration_id,
        "attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": None, "secondaryKey": None}},
        **more,
    }


def create():
    seen["made"] = made = enrollment.create_or_update("py-1", body("py-1"))
    keys = made["attestation"]["symmetricKey"]
    assert keys["primaryKey"] and keys["secondaryKey"], made
    assert made["etag"] and made["createdDateTimeUtc"] == made["lastUpdatedDateTimeUtc"]


def get():
    got = enrollment.get("py-1")
    assert got["registrationState"]["status"] == "unassigned", got
    assert "symmetricKey" not in got["attestation"], got
    assert got["etag"] == seen["made"]["etag"]


def attestation():
    got = enrollment.get_attestation_mechanism("py-1")
    assert got == seen["made"]["attestation"], got


def create_again():
    error = expect(ResourceExistsError, lambda: enrollment.create_or_update("py-1", body("py-1")))
    assert error.status_code == 409, error


def update_with_etag():
    whole = body("py-1", attestation=seen["made"]["attestation"], provisioningStatus="disabled")
    done = enrollment.create_or_update("py-1", whole, if_match=seen["made"]["etag"])
    assert done["provisioningStatus"] == "disabled" and done["etag"] != seen["made"]["etag"]
    assert done["attestation"] == seen["made"]["attestation"]


def update_with_stale_etag():
    stale = seen["made"]["etag"]
    error = expect(HttpResponseError, lambda: enrollment.create_or_update("py-1", body("py-1"), if_match=stale))
    assert error.status_code == 412, error


def update_any():
    assert enrollment.create_or_update("py-1", body("py-1"), if_match="*")["provisioningStatus"] == "enabled"


def pages():
    for no in range(25):
        enrollment.create_or_update(f"py-page-{no}", body(f"py-page-{no}"))
    sizes = [len(list(page)) for page in enrollment.query({"query": "SELECT *"}, top=10).by_page()]
    assert sizes == [10, 10, 6], sizes
    rows = [row["registrationId"] for row in enrollment.query({"query": "SELECT *"}, top=7)]
    assert len(set(rows)) == 26, rows


def bulk():
    run = enrollment.run_bulk_operation
    items = [body(f"py-bulk-{no}") for no in range(3)]
    assert run({"mode": "create", "enrollments": items})["isSuccessful"] is True
    clash = run({"mode": "create", "enrollments": items[:1] + [body("py-bulk-3")]})
    assert clash["isSuccessful"] is False, clash
    assert [error["registrationId"] for error in clash["errors"]] == ["py-bulk-0"], clash
    assert clash["errors"][0]["errorCode"] == 409201, clash
    whole = enrollment.get("py-bulk-1")
    assert run({"mode": "update", "enrollments": [whole]})["isSuccessful"] is True
    assert run({"mode": "delete", "enrollments": [{**item} for item in items]})["isSuccessful"] is True
    error = expect(HttpResponseError, lambda: run({"mode": "create", "enrollments": [body(f"x{n}") for n in range(11)]}))
    assert error.status_code == 400, error


def groups():
    group = client.enrollment_group
    whole = {"enrollmentGroupId": "py-group", "attestation": {"type": "symmetricKey"}, "provisioningStatus": "enabled"}
    made = group.create_or_update("py-group", whole)
    assert made["attestation"]["symmetricKey"]["primaryKey"]
    assert group.get("py-group")["etag"] == made["etag"]
    assert group.get_attestation_mechanism("py-group") == made["attestation"]
    again = group.create_or_update("py-group", {**whole, "provisioningStatus": "disabled"}, if_match=made["etag"])
    assert again["provisioningStatus"] == "disabled"
    assert [row["enrollmentGroupId"] for row in group.query({"query": "SELECT *"})] == ["py-group"]
    assert list(client.device_registration_state.query("py-group")) == []
    assert group.delete("py-group") is None
    expect(ResourceNotFoundError, lambda: group.get("py-group"))


def registration_states():
    states = client.device_registration_state
    error = expect(ResourceNotFoundError, lambda: states.get("py-1"))
    assert error.status_code == 404, error
    expect(ResourceNotFoundError, lambda: states.delete("py-1"))


def delete():
    assert enrollment.delete("py-1") is None
    error = expect(ResourceNotFoundError, lambda: enrollment.get("py-1"))
    assert "not found" in str(error).lower(), error


def odd_ids():
    made = enrollment.create_or_update("py:odd_id.x-", body("py:odd_id.x-"))
    assert enrollment.get("PY:odd_id.x-")["etag"] == made["etag"]
    enrollment.delete("py:odd_id.x-")
    error = expect(HttpResponseError, lambda: enrollment.create_or_update("py odd", body("py odd")))
    assert error.status_code == 400, error


def wrong_key():
    stranger = DeviceProvisioningClient.from_connection_string(DPS.replace(KEY, KEY.replace("AAEC", "AAED")))
    expect(ClientAuthenticationError, lambda: stranger.enrollment.get("py-page-1"))


for step in [
    create, get, attestation, create_again, update_with_etag, update_with_stale_etag, update_any, pages, bulk, groups,
    registration_states, delete, odd_ids, wrong_key,
]:
    check(step.__name__, step)
for no in range(25):
    enrollment.delete(f"py-page-{no}")
end()
