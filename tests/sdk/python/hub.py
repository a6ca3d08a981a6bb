"""A hub's service API through azure-iot-hub: every assertion is about what it returns or raises."""

import json

from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, ExportImportDevice, QuerySpecification, Twin, TwinProperties
from msrest.exceptions import HttpOperationError

from checks import HUB, KEY, check, command, end, expect

registry = IoTHubRegistryManager.from_connection_string(HUB)
ID = "py#hub?1%x"
seen = {}


def code(error):
    return error.response.headers.get("iothub-errorcode")


def create():
    seen["made"] = made = registry.create_device_with_sas(ID, KEY, KEY, "enabled")
    assert made.device_id == ID and made.authentication.symmetric_key.primary_key == KEY, made
    assert made.connection_state == "Disconnected" and made.etag


def create_again():
    error = expect(HttpOperationError, lambda: registry.create_device_with_sas(ID, KEY, KEY, "enabled"))
    assert error.response.status_code == 409 and code(error) == "DeviceAlreadyExists", error.response.text
    assert json.loads(error.response.text)["Message"].startswith("ErrorCode:DeviceAlreadyExists;")


def get():
    assert registry.get_device(ID).etag == seen["made"].etag


def update():
    done = registry.update_device_with_sas(ID, seen["made"].etag, KEY, KEY, "disabled")
    assert done.status == "disabled" and done.etag != seen["made"].etag
    error = expect(
        HttpOperationError, lambda: registry.update_device_with_sas(ID, seen["made"].etag, KEY, KEY, "enabled")
    )
    assert error.response.status_code == 412 and code(error) == "PreconditionFailed", error.response.text
    registry.update_device_with_sas(ID, done.etag, KEY, KEY, "enabled")


def twin():
    got = registry.get_twin(ID)
    patched = registry.update_twin(ID, Twin(tags={"ring": 3}, properties=TwinProperties(desired={"on": True})), got.etag)
    assert patched.tags == {"ring": 3} and patched.properties.desired["on"] is True, patched
    error = expect(HttpOperationError, lambda: registry.update_twin(ID, Twin(tags={"ring": 4}), got.etag))
    assert error.response.status_code == 412
    replaced = registry.replace_twin(ID, Twin(tags={"site": "x"}, properties=TwinProperties(desired={})), "*")
    assert replaced.tags == {"site": "x"}, replaced


def bulk():
    devices = [ExportImportDevice(id=f"py-bulk-{no}", import_mode="create", status="enabled") for no in range(20)]
    told = registry.bulk_create_or_update_devices(devices)
    assert told.is_successful and told.errors == [], told
    told = registry.bulk_create_or_update_devices(devices[:2])
    assert told.is_successful is False and len(told.errors) == 2, told
    assert told.errors[0].device_id == "py-bulk-0" and told.errors[0].error_code == "DeviceAlreadyExists", told.errors[0]


def query():
    spec = QuerySpecification(query="SELECT * FROM devices WHERE startswith(deviceId, 'py-bulk-')")
    token, ids = None, []
    for _ in range(3):
        page = registry.query_iot_hub(spec, token, 8)
        ids += [item.device_id for item in page.items]
        token = page.continuation_token
        if not token:
            break
    assert len(set(ids)) == 20 and not token, (ids, token)
    error = expect(HttpOperationError, lambda: registry.query_iot_hub(QuerySpecification(query="SELECT nonsense")))
    assert error.response.status_code == 400 and code(error) == "ArgumentInvalid", error.response.text


def invoke(device, **more):
    return registry.invoke_device_method(device, CloudToDeviceMethod(method_name="reboot", payload={"in": 5}, **more))


def method_online():
    command(command="connect", hub="hub-a.azure-devices.net", device=ID)
    told = invoke(ID, response_timeout_in_seconds=5)
    assert told.status == 200 and told.payload == {"in": 5}, told
    assert registry.get_device(ID).connection_state == "Connected"
    command(command="behave", device=ID, behaviour={"fails": {"status": 404}})
    assert invoke(ID).status == 404


def method_offline():
    error = expect(HttpOperationError, lambda: invoke("py-bulk-1"))
    assert error.response.status_code == 404 and code(error) == "DeviceNotOnline", error.response.text
    inner = json.loads(json.loads(error.response.text)["Message"])
    assert inner["errorCode"] == 404103, inner


def method_missing():
    error = expect(HttpOperationError, lambda: invoke("nobody"))
    assert error.response.status_code == 404 and code(error) == "DeviceNotFound", error.response.text
    inner = json.loads(json.loads(error.response.text)["Message"])
    assert inner["errorCode"] == 404001, inner


def modules():
    made = registry.create_module_with_sas("py-bulk-1", "m-1", "IotEdge", KEY, KEY)
    assert made.module_id == "m-1", made
    assert [module.module_id for module in registry.get_modules("py-bulk-1")] == ["m-1"]
    assert registry.get_module_twin("py-bulk-1", "m-1").module_id == "m-1"
    registry.delete_module("py-bulk-1", "m-1", made.etag)


def statistics():
    told = registry.get_device_registry_statistics()
    assert told.total_device_count >= 21 and told.disabled_device_count == 0, told
    assert registry.get_service_statistics().connected_device_count >= 1


def delete():
    registry.delete_device(ID)
    error = expect(HttpOperationError, lambda: registry.get_device(ID))
    assert error.response.status_code == 404 and code(error) == "DeviceNotFound", error.response.text
    for no in range(20):
        registry.delete_device(f"py-bulk-{no}")


def wrong_key():
    stranger = IoTHubRegistryManager.from_connection_string(HUB.replace("AAEC", "AAED"))
    error = expect(HttpOperationError, lambda: stranger.get_device(ID))
    assert error.response.status_code == 401, error


for step in [
    create, create_again, get, update, twin, bulk, query, method_online, method_offline, method_missing, modules,
    statistics, delete, wrong_key,
]:
    check(step.__name__, step)
end()
