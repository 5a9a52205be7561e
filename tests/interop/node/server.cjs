// Node's ws as a server: `server.cjs DEFLATE PEM`. Its port goes to stdout, and how each client left.
"use strict";
const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const { WebSocketServer } = require("ws");

const [deflate, pem] = process.argv.slice(2);
const tls = pem ? { key: fs.readFileSync(pem), cert: fs.readFileSync(pem) } : null;
const server = tls ? https.createServer(tls) : http.createServer();
const sockets = new WebSocketServer({ server, perMessageDeflate: deflate === "true" });

sockets.on("connection", (ws, request) => {
  if (request.url === "/echo") {
    ws.on("message", (data, isBinary) => ws.send(data, { binary: isBinary }));
  } else if (request.url === "/fragments") {
    for (const part of ["grö", "", "ßer ", "als"]) ws.send(part, { fin: false });
    ws.send(" 😀", { fin: true });
  } else if (request.url === "/close") {
    ws.close(4001, "bye, größer");
  } else if (request.url === "/ping") {
    ws.on("pong", (data) => ws.send(data.toString()));
    ws.ping("pinged");
  }
  ws.on("close", (code, reason) => console.log(JSON.stringify([code, reason.toString()])));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
