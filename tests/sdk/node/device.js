'use strict';
// A device that registers over HTTP through azure-iot-provisioning-device: every assertion is about what it returns.
const { Http } = require('azure-iot-provisioning-device-http');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { KEY, assert, command, connection, fails, run, told } = require('./checks');

const HUB_A = 'hub-a.azure-devices.net';
const HUB_B = 'hub-b.azure-devices.net';
const HOST = 'dps-a.azure-devices-provisioning.net';
const service = ProvisioningServiceClient.fromConnectionString(connection(HOST, 'provisioningserviceowner'));

function register(id, key) {
  const security = new SymmetricKeySecurityClient(id, key || KEY);
  const device = ProvisioningDeviceClient.create('global.azure-devices-provisioning.net', '0ne00000001', new Http(), security);
  return told((done) => device.register(done)).then(({ value }) => value);
}

async function enroll(id, more) {
  const enrollment = {
    registrationId: id,
    attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: KEY, secondaryKey: KEY } },
    ...more,
  };
  const former = await told((done) => service.getIndividualEnrollment(id, done)).then(({ value }) => value, () => null);
  if (former) enrollment.etag = former.etag;
  await told((done) => service.createOrUpdateIndividualEnrollment(enrollment, done));
}

async function registers() {
  await enroll('node-dev', { iotHubs: [HUB_A] });
  const told = await register('node-dev');
  assert.strictEqual(told.assignedHub, HUB_A);
  assert.strictEqual(told.deviceId, 'node-dev');
  assert.strictEqual(told.status, 'assigned');
  assert.strictEqual(told.substatus, 'initialAssignment');
}

async function polled() {
  const calls = await command({ command: 'calls' });
  assert.ok(calls['device.poll 202'] >= 1, JSON.stringify(calls));
}

async function migrates() {
  await enroll('node-dev', { iotHubs: [HUB_B] });
  const told = await register('node-dev');
  assert.strictEqual(told.assignedHub, HUB_B);
  assert.strictEqual(told.substatus, 'deviceDataMigrated');
}

async function stays() {
  await enroll('node-dev', {
    iotHubs: [HUB_A],
    reprovisionPolicy: { updateHubAssignment: false, migrateDeviceData: false },
  });
  assert.strictEqual((await register('node-dev')).assignedHub, HUB_B);
}

async function resets() {
  await enroll('node-dev', {
    iotHubs: [HUB_A],
    reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: false },
  });
  const told = await register('node-dev');
  assert.strictEqual(told.assignedHub, HUB_A);
  assert.strictEqual(told.substatus, 'deviceDataReset');
}

async function disabled() {
  await enroll('node-dev', { provisioningStatus: 'disabled' });
  const error = await fails('SyntaxError', register('node-dev'));
  assert.match(error.message, /status is disabled/);
}

async function wrongKey() {
  const error = await register('node-dev', KEY.replace('AAEC', 'AAED')).then(() => null, (error) => error);
  assert.ok(error, 'a wrong key was taken');
}

async function throttled() {
  await enroll('node-dev', {});
  const fault = { operation: 'device.register', status: 429, code: 429001, retry_after_s: 1 };
  await command({ command: 'fail_next', fault });
  await fails('ThrottlingError', register('node-dev'));
}

run([registers, polled, migrates, stays, resets, disabled, wrongKey, throttled]);
