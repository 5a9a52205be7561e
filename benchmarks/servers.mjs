// Node's ws: what `servers.py` says of itself holds for this one, too.
//   node servers.mjs FOLDER {"batch": 0, "tls": "", "deflate": false}
// FOLDER is where `npm install ws` was run.

import { readFileSync } from "node:fs";
import { createServer as createHttp } from "node:http";
import { createServer as createHttps } from "node:https";
import { createRequire } from "node:module";

const [folder, text] = process.argv.slice(2);
const { batch, tls, deflate } = JSON.parse(text);
const { WebSocketServer } = createRequire(`${folder}/`)("ws");

const pem = tls && readFileSync(tls);
const http = tls ? createHttps({ key: pem, cert: pem }) : createHttp();
// Off unless told, as ws advises; the rows about compression tell.
const server = new WebSocketServer({ server: http, perMessageDeflate: deflate });

server.on("connection", (ws) => {
  ws.on("error", () => {});
  ws.on("message", (data, binary) => {
    if (!batch) {
      ws.send(data, { binary });
      return;
    }
    for (let i = 0; i < batch; i++) {
      for (const client of server.clients) client.send(data, { binary });
    }
  });
});

http.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: http.address().port })));
