#!/usr/bin/node
// Any Node server: on the socket that funcd passes as descriptor 3; run by hand, on $PORT or 8080 of this machine.
"use strict";
const http = require("http");

const server = http.createServer((request, response) => {
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify({ hello: request.url, node: process.version }) + "\n");
});
// Callers wait in the socket until it accepts, so keep-alive connections end only with the process.
server.keepAliveTimeout = 75_000;
server.listen(process.env.LISTEN_FDS ? { fd: 3 } : { port: process.env.PORT || 8080 });
