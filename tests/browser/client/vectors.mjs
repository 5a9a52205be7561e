// The vectors that both languages pass: `vectors.mjs wire.json`. What is not as it should be goes to stdout, one line
// for each.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { Malformed } from "../../../trioweb/browser/errors.js";
import { FORMATS, read, write } from "../../../trioweb/browser/wire.js";

const vectors = JSON.parse(readFileSync(process.argv[2], "utf8"));
const bytes = (hex) => new Uint8Array(Buffer.from(hex, "hex"));
const hex = (data) => Buffer.from(data).toString("hex");
const inData = ({ text, binary }) => (binary === undefined ? text : bytes(binary));

// A message without the fields that have their default.
const brief = (message) => JSON.parse(write(FORMATS.json, message));

function check(name, run) {
  try {
    run();
  } catch (error) {
    console.log(`${name}: ${error.message.replaceAll("\n", " ")}`);
  }
}

let count = 0;
for (const { name, message, msgpack } of vectors.messages) {
  count++;
  check(name, () => {
    assert.deepEqual(brief(read(JSON.stringify(message))), message);
    assert.deepEqual(brief(read(bytes(msgpack))), message);
    assert.deepEqual(JSON.parse(write(FORMATS.json, message)), message);
    assert.equal(hex(write(FORMATS.msgpack, message)), msgpack);
    assert.equal(hex(write(FORMATS.msgpack, read(bytes(msgpack)))), msgpack);
  });
}
for (const { name, means, ...from } of vectors.means) {
  count++;
  check(name, () => assert.deepEqual(brief(read(inData(from))), means));
}
for (const { data, message, msgpack } of vectors.bytes) {
  count++;
  check(`bytes ${data}`, () => {
    assert.equal(hex(read(bytes(msgpack)).data), data);
    assert.equal(hex(write(FORMATS.msgpack, { ...message, data: bytes(data) })), msgpack);
    assert.deepEqual(brief({ ...message, data: bytes(data) }), message);
    assert.deepEqual(brief({ ...message, data: bytes(data).buffer }), message);
  });
}
for (const { name, answer, fails = null, ...from } of vectors.malformed) {
  count++;
  check(name, () => {
    assert.throws(() => read(inData(from)), (error) => {
      assert.ok(error instanceof Malformed, error);
      const { message, ...said } = brief(error.answer);
      assert.ok(message);
      assert.deepEqual(said, answer);
      assert.equal(error.fails, fails);
      return true;
    });
  });
}
console.log(`${count} vectors`);
