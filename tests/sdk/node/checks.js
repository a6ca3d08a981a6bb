'use strict';
// Runs the checks of one scenario in their order, one line each, and counts them.
const assert = require('assert');
const https = require('https');

const KEY = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=';
const connection = (host, policy, key) =>
  `HostName=${host};SharedAccessKeyName=${policy};SharedAccessKey=${key || KEY}`;

/** A callback's outcome: what it told, or the error, which must then be expected. */
function told(act) {
  return new Promise((resolve, reject) => {
    act((error, value, response) => (error ? reject(error) : resolve({ value, response })));
  });
}

/** The error that a promise ends with, which must have this name. */
async function fails(name, promise) {
  try {
    await promise;
  } catch (error) {
    assert.strictEqual(error.name, name, `${error.name}: ${error.message}`);
    return error;
  }
  throw new Error(`no ${name}`);
}

/** Drives the emulator. */
function command(fields) {
  return new Promise((resolve, reject) => {
    const options = { method: 'POST', host: 'localhost', path: '/_emulator/commands' };
    const request = https.request(options, (answer) => {
      let text = '';
      answer.on('data', (chunk) => (text += chunk));
      answer.on('end', () => (answer.statusCode === 200 ? resolve(JSON.parse(text).result) : reject(new Error(text))));
    });
    request.on('error', reject);
    request.end(JSON.stringify(fields));
  });
}

async function run(steps) {
  let passed = 0;
  let failed = 0;
  for (const step of steps) {
    try {
      await step();
      passed += 1;
      console.log(`  ok ${step.name}`);
    } catch (error) {
      failed += 1;
      console.log(`  FAILED ${step.name}`);
      console.log(error);
    }
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

module.exports = { KEY, assert, command, connection, fails, run, told };
