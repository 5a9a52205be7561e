// Node's ws as a client: `client.cjs URL DEFLATE CA`. What it saw goes to stdout as one line of JSON.
"use strict";
const assert = require("node:assert");
const fs = require("node:fs");
const { once } = require("node:events");
const { WebSocket } = require("ws");

const [url, deflate, ca] = process.argv.slice(2);
const options = {
  perMessageDeflate: deflate === "true",
  ca: ca ? fs.readFileSync(ca) : undefined,
};

async function open(path) {
  const ws = new WebSocket(url + path, options);
  await once(ws, "open");
  return ws;
}

async function closing(ws) {
  const [code, reason] = await once(ws, "close");
  return [code, reason.toString()];
}

async function echoed(ws, message) {
  ws.send(message);
  const [data, isBinary] = await once(ws, "message");
  assert.strictEqual(isBinary, typeof message !== "string");
  assert.ok(Buffer.from(message).equals(data));
}

async function main() {
  const seen = {};
  const ws = await open("/echo");
  seen.extensions = ws.extensions;
  const messages = [
    "hello", "größer als 😀", Buffer.from([0, 1, 255]), "", Buffer.alloc(0), "ab".repeat(2 ** 19),
    require("node:crypto").randomBytes(2 ** 20),
  ];
  for (const message of messages) await echoed(ws, message);
  seen.messages = messages.length;

  for (const part of ["grö", "", "ßer ", "als"]) ws.send(part, { fin: false });
  ws.ping("between");
  const pong = once(ws, "pong");
  const whole = once(ws, "message");
  ws.send(" 😀", { fin: true });
  seen.pong = (await pong)[0].toString();
  seen.fragments = (await whole)[0].toString();

  ws.close(4000, "done, größer");
  seen.closed = (await closing(ws))[0];
  seen.closedByPeer = await closing(await open("/close"));
  const pinged = await open("/ping");
  seen.pinged = (await once(pinged, "message"))[0].toString();
  pinged.close();
  await closing(pinged);
  console.log(JSON.stringify(seen));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
