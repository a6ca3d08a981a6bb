'use strict';
// Loaded before a scenario. Node's SDKs take no port in a host name, and the emulator listens on a free one: each
// request goes to this machine and to that port, and is about the host that it names all the same.
const https = require('https');
const port = Number(process.env.EMULATOR_PORT);
const request = https.request;
https.request = function (options, ...rest) {
  if (options && typeof options === 'object' && !options.port) {
    const host = options.host || options.hostname;
    options = { ...options, host: '127.0.0.1', hostname: '127.0.0.1', port, servername: host };
    options.headers = { ...options.headers, Host: host };
  }
  return request.call(this, options, ...rest);
};
