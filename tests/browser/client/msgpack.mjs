// MessagePack by lines: each is hexadecimal, and is answered with what encode(decode(...)) makes of it, or with the
// name of the error and what it says.

import { createInterface } from "node:readline";

import { MsgpackError, decode, encode } from "../../../trioweb/browser/trioweb.js";

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = Buffer.from(encode(decode(new Uint8Array(Buffer.from(line, "hex"))))).toString("hex");
  } catch (error) {
    answer = `${error instanceof MsgpackError ? "refused" : "failed"}: ${error.stack.replaceAll("\n", " ")}`;
  }
  console.log(answer);
}
