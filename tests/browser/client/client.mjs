// The client outside of a page: `client.mjs URL`. What it saw goes to stdout as one line of JSON.

import { createRequire } from "node:module";

import { Session } from "../../../trioweb/browser/trioweb.js";

const { WebSocket } = createRequire(import.meta.url)("ws");
const session = new Session(process.argv[2], { WebSocket, format: "msgpack" });
const seen = { sum: await session.call("add", { a: 1, b: 2 }), items: [], events: [] };
for await (const item of session.stream("count", { to: 3 })) seen.items.push(item);
const subscription = session.subscribe("news");
await subscription.ready;
for (const data of ["a", "b"]) await session.publish("news", data);
for await (const { data } of subscription) if (seen.events.push(data) === 2) break;
await session.close();
console.log(JSON.stringify(seen));
