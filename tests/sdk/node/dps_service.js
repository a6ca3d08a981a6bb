'use strict';
// The DPS service API through azure-iot-provisioning-service: every assertion is about what it returns.
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { KEY, assert, command, connection, fails, run, told } = require('./checks');

const HOST = 'dps-a.azure-devices-provisioning.net';
const client = ProvisioningServiceClient.fromConnectionString(connection(HOST, 'provisioningserviceowner'));
const body = (id, more) => ({ registrationId: id, attestation: { type: 'symmetricKey' }, ...more });
const put = (enrollment) => told((done) => client.createOrUpdateIndividualEnrollment(enrollment, done));
const get = (id) => told((done) => client.getIndividualEnrollment(id, done));
const bulk = (operation) => told((done) => client.runBulkEnrollmentOperation(operation, done));
let made;

async function create() {
  made = (await put(body('node-1'))).value;
  assert.ok(made.attestation.symmetricKey.primaryKey);
  assert.strictEqual(made.createdDateTimeUtc, made.lastUpdatedDateTimeUtc);
}

async function read() {
  const { value } = await get('node-1');
  assert.strictEqual(value.registrationState.status, 'unassigned');
  assert.strictEqual(value.attestation.symmetricKey, undefined);
  assert.strictEqual(value.etag, made.etag);
}

async function attestation() {
  const { value } = await told((done) => client.getIndividualEnrollmentAttestationMechanism('node-1', done));
  assert.deepStrictEqual(value, made.attestation);
}

async function createAgain() {
  await fails('DeviceAlreadyExistsError', put(body('node-1')));
}

async function update() {
  const { value } = await put({ ...made, provisioningStatus: 'disabled' });
  assert.strictEqual(value.provisioningStatus, 'disabled');
  const stale = await fails('InvalidEtagError', put({ ...made, provisioningStatus: 'enabled' }));
  assert.strictEqual(JSON.parse(stale.responseBody).errorCode, 412001);
}

async function pages() {
  for (let no = 0; no < 25; no += 1) await put(body(`node-page-${no}`));
  const query = client.createIndividualEnrollmentQuery({ query: 'select *' }, 10);
  const ids = new Set();
  const sizes = [];
  while (query.hasMoreResults) {
    const { value } = await told((done) => query.next(query.continuationToken, done));
    sizes.push(value.length);
    value.forEach((row) => ids.add(row.registrationId));
    assert.ok(sizes.length < 10);
  }
  assert.deepStrictEqual(sizes, [10, 10, 6]);
  assert.strictEqual(ids.size, 26);
}

async function bulkOperations() {
  const items = [0, 1, 2].map((no) => body(`node-bulk-${no}`));
  const good = (await bulk({ mode: 'create', enrollments: items })).value;
  assert.deepStrictEqual(good, { isSuccessful: true, errors: [] });
  const clash = (await bulk({ mode: 'create', enrollments: [items[0]] })).value;
  assert.strictEqual(clash.isSuccessful, false);
  assert.strictEqual(clash.errors[0].errorCode, 409201);
  assert.strictEqual((await bulk({ mode: 'delete', enrollments: items })).value.isSuccessful, true);
}

async function groups() {
  const group = { enrollmentGroupId: 'node-group', attestation: { type: 'symmetricKey' } };
  const whole = (await told((done) => client.createOrUpdateEnrollmentGroup(group, done))).value;
  assert.ok(whole.attestation.symmetricKey.secondaryKey);
  const keys = await told((done) => client.getEnrollmentGroupAttestationMechanism('node-group', done));
  assert.deepStrictEqual(keys.value, whole.attestation);
  const states = client.createEnrollmentGroupDeviceRegistrationStateQuery({ query: 'select *' }, 'node-group', 10);
  assert.deepStrictEqual((await told((done) => states.next(done))).value, []);
  assert.strictEqual(states.hasMoreResults, false);
  await told((done) => client.deleteEnrollmentGroup(whole, done));
  const missing = told((done) => client.getEnrollmentGroup('node-group', done));
  const error = await missing.then(() => null, (error) => error);
  assert.strictEqual(error.response.statusCode, 404);
}

async function missing() {
  const error = await get('nobody').then(() => null, (error) => error);
  assert.strictEqual(error.message, 'Not found');
  assert.strictEqual(error.response.statusCode, 404);
  assert.strictEqual(JSON.parse(error.responseBody).errorCode, 404201);
}

async function throttled() {
  await command({ command: 'fail_next', fault: { operation: 'dps.enrollment.get', status: 429, code: 429001 } });
  await fails('ThrottlingError', get('node-1'));
}

async function wrongKey() {
  const other = connection(HOST, 'provisioningserviceowner', KEY.replace('AAEC', 'AAED'));
  const stranger = ProvisioningServiceClient.fromConnectionString(other);
  const error = await fails('UnauthorizedError', told((done) => stranger.getIndividualEnrollment('node-1', done)));
  assert.strictEqual(error.response.statusCode, 401);
}

async function erase() {
  await told((done) => client.deleteIndividualEnrollment('node-1', done));
  for (let no = 0; no < 25; no += 1) {
    await told((done) => client.deleteIndividualEnrollment(`node-page-${no}`, done));
  }
  const error = await get('node-1').then(() => null, (error) => error);
  assert.strictEqual(error.response.statusCode, 404);
}

run([create, read, attestation, createAgain, update, pages, bulkOperations, groups, missing, throttled, wrongKey, erase]);
