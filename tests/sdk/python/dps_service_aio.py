"""The DPS service API through the asynchronous client of azure-iot-deviceprovisioning."""

import asyncio

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.iot.deviceprovisioning.aio import DeviceProvisioningClient

from checks import DPS, check, end


def body(registration_id):
    return {"registrationId": registration_id, "attestation": {"type": "symmetricKey"}}


async def raises(kind, awaited):
    try:
        told = await awaited
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}, but {told!r}")


async def scenario():
    async with DeviceProvisioningClient.from_connection_string(DPS) as client:
        enrollment = client.enrollment
        made = await enrollment.create_or_update("aio-1", body("aio-1"))
        assert made["attestation"]["symmetricKey"]["primaryKey"], made
        got = await enrollment.get("aio-1")
        assert got["registrationState"]["status"] == "unassigned", got
        assert await enrollment.get_attestation_mechanism("aio-1") == made["attestation"]
        await raises(ResourceExistsError, enrollment.create_or_update("aio-1", body("aio-1")))
        await enrollment.create_or_update("aio-1", body("aio-1"), if_match=made["etag"])
        for no in range(5):
            await enrollment.create_or_update(f"aio-page-{no}", body(f"aio-page-{no}"))
        sizes = []
        async for page in (await enrollment.query({"query": "SELECT *"}, top=4)).by_page():
            sizes.append(len([row async for row in page]))
        assert sum(sizes) >= 6 and all(size == 4 for size in sizes[:-1]), sizes
        ids = [f"aio-page-{no}" for no in range(5)] + ["aio-1"]
        told = await enrollment.run_bulk_operation({"mode": "delete", "enrollments": [body(i) for i in ids]})
        assert told["isSuccessful"] is True, told
        await raises(ResourceNotFoundError, enrollment.get("aio-1"))


check("scenario", lambda: asyncio.run(scenario()))
end()
