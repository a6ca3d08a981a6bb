'use strict';
// A hub's service API through azure-iothub: every assertion is about what it returns.
const { Client, Registry } = require('azure-iothub');
const { assert, command, connection, fails, run, told } = require('./checks');

const HOST = 'hub-a.azure-devices.net';
const registry = Registry.fromConnectionString(connection(HOST, 'iothubowner'));
const client = Client.fromConnectionString(connection(HOST, 'iothubowner'));
const ID = 'node#hub?1%x';
let made;

async function create() {
  made = (await told((done) => registry.create({ deviceId: ID, status: 'enabled' }, done))).value;
  assert.strictEqual(made.deviceId, ID);
  assert.ok(made.authentication.symmetricKey.primaryKey, 'empty keys mean: generate them');
  await fails('DeviceAlreadyExistsError', told((done) => registry.create({ deviceId: ID }, done)));
}

async function read() {
  const { value } = await told((done) => registry.get(ID, done));
  assert.strictEqual(value.etag, made.etag);
  assert.strictEqual(value.connectionState, 'Disconnected');
  const error = await told((done) => registry.get('nobody', done)).then(() => null, (error) => error);
  assert.strictEqual(error.response.statusCode, 404);
}

async function update() {
  const { value } = await told((done) => registry.update({ ...made, status: 'disabled' }, done));
  assert.strictEqual(value.status, 'disabled');
  await told((done) => registry.update({ ...made, etag: undefined, status: 'enabled' }, done));
}

async function twin() {
  const { value } = await told((done) => registry.getTwin(ID, done));
  const patched = await told((done) => value.update({ tags: { ring: 3 } }, done));
  assert.deepStrictEqual(patched.value.tags, { ring: 3 });
  const error = await told((done) => registry.updateTwin(ID, { tags: { ring: 4 } }, 'c3RhbGU=', done)).then(
    () => null,
    (error) => error,
  );
  assert.strictEqual(error.response.statusCode, 412);
}

async function bulk() {
  const devices = Array.from({ length: 20 }, (_, no) => ({ deviceId: `node-bulk-${no}` }));
  const added = (await told((done) => registry.addDevices(devices, done))).value;
  assert.strictEqual(added.isSuccessful, true, JSON.stringify(added));
  const whole = devices.map((device) => ({ ...device, status: 'disabled' }));
  const updated = (await told((done) => registry.updateDevices(whole, true, done))).value;
  assert.strictEqual(updated.isSuccessful, true, JSON.stringify(updated));
}

async function query() {
  const query = registry.createQuery("SELECT * FROM devices WHERE startswith(deviceId, 'node-bulk-')", 8);
  const sizes = [];
  while (query.hasMoreResults) {
    const { value } = await told((done) => query.nextAsTwin(done));
    sizes.push(value.length);
    assert.strictEqual(value[0].status, 'disabled');
    assert.ok(sizes.length < 10);
  }
  assert.deepStrictEqual(sizes, [8, 8, 4]);
}

async function list() {
  const { value } = await told((done) => registry.list(done));
  assert.ok(value.some((device) => device.deviceId === ID));
}

async function remove() {
  const devices = Array.from({ length: 20 }, (_, no) => ({ deviceId: `node-bulk-${no}` }));
  const removed = (await told((done) => registry.removeDevices(devices, true, done))).value;
  assert.strictEqual(removed.isSuccessful, true, JSON.stringify(removed));
}

const params = { methodName: 'reboot', payload: { in: 5 }, responseTimeoutInSeconds: 5, connectTimeoutInSeconds: 0 };
const invoke = (id) => told((done) => client.invokeDeviceMethod(id, params, done));

async function methodOnline() {
  await command({ command: 'connect', hub: HOST, device: ID });
  const { value } = await invoke(ID);
  assert.deepStrictEqual(value, { status: 200, payload: { in: 5 } });
}

async function methodOffline() {
  await command({ command: 'disconnect', hub: HOST, device: ID });
  const error = await invoke(ID).then(() => null, (error) => error);
  assert.strictEqual(error.message, 'Not found');
  assert.strictEqual(JSON.parse(JSON.parse(error.responseBody).Message).errorCode, 404103);
}

async function methodMissing() {
  const error = await invoke('nobody').then(() => null, (error) => error);
  assert.strictEqual(error.response.statusCode, 404);
  assert.strictEqual(JSON.parse(JSON.parse(error.responseBody).Message).errorCode, 404001);
}

// The SDK sits a throttled method out, at least ten seconds long: it must end well all the same.
async function methodThrottledOnce() {
  await command({ command: 'connect', hub: HOST, device: ID });
  await command({ command: 'fail_next', fault: { operation: 'hub.method', status: 429 } });
  const { value } = await invoke(ID);
  assert.strictEqual(value.status, 200);
}

async function registryThrottled() {
  await command({ command: 'fail_next', fault: { operation: 'hub.identity.get', status: 429 } });
  await fails('ThrottlingError', told((done) => registry.get(ID, done)));
}

async function erase() {
  await told((done) => registry.delete(ID, done));
  const error = await told((done) => registry.get(ID, done)).then(() => null, (error) => error);
  assert.strictEqual(error.response.statusCode, 404);
}

run([
  create, read, update, twin, bulk, query, list, remove, methodOnline, methodOffline, methodMissing,
  methodThrottledOnce, registryThrottled, erase,
]);
