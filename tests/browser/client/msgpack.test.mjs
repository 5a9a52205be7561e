// MessagePack, as far as another implementation of it cannot tell.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Ext, MsgpackError, decode, encode } from "../../../trioweb/browser/trioweb.js";
import { Backoff } from "../../../trioweb/browser/backoff.js";

const refuses = (run, pattern) => assert.throws(run, (error) => error instanceof MsgpackError && pattern.test(error.message));
const bytes = (...values) => new Uint8Array(values);

test("bytes in all their shapes", () => {
  const data = bytes(1, 2, 3, 4);
  for (const value of [data, data.buffer, new DataView(data.buffer), new Uint16Array(data.buffer), data.subarray(0)]) {
    assert.deepEqual(decode(encode(value)), data);
  }
  assert.deepEqual(decode(encode(data.subarray(1, 3))), bytes(2, 3));
  assert.equal(decode(encode(data)).buffer.byteLength, 4, "a copy: it does not keep the message");
});

test("what is undefined is left out of objects and null in arrays, as in JSON", () => {
  assert.deepEqual(decode(encode({ a: undefined, b: 1 })), { b: 1 });
  assert.deepEqual(decode(encode([undefined])), [null]);
  assert.deepEqual(decode(encode(undefined)), null);
});

test("integers that a number does not hold are bigints", () => {
  for (const value of [2n ** 53n, -(2n ** 53n), 2n ** 64n - 1n, -(2n ** 63n), 9007199254740993n]) {
    assert.equal(decode(encode(value)), value);
  }
  assert.equal(decode(encode(5n)), 5);
  refuses(() => encode(2n ** 64n), /64 bits/);
  refuses(() => encode(-(2n ** 63n) - 1n), /64 bits/);
});

test("floats", () => {
  for (const value of [0.1, -0, Infinity, -Infinity, 2 ** 60, 1e300]) assert.ok(Object.is(decode(encode(value)), value));
  assert.ok(Number.isNaN(decode(encode(NaN))));
  assert.equal(decode(bytes(0xca, 0x3f, 0x00, 0x00, 0x00)), 0.5);
});

test("dates", () => {
  for (const time of [0, 1.7e12, 1.7e12 + 1, -1, 2 ** 34 * 1000, 8.64e15, -8.64e15]) {
    assert.equal(decode(encode(new Date(time))).getTime(), time);
  }
  refuses(() => encode(new Date(NaN)), /invalid Date/);
  refuses(() => decode(bytes(0xc7, 12, 0xff, 0, 0, 0, 0, 0x7f, 0, 0, 0, 0, 0, 0, 0)), /out of range/);
  refuses(() => decode(bytes(0xd4, 0xff, 0)), /1 bytes/);
});

test("extensions", () => {
  for (const length of [0, 1, 2, 3, 4, 8, 16, 17, 255, 256, 70_000]) {
    const value = decode(encode(new Ext(-5, new Uint8Array(length).fill(7))));
    assert.ok(value instanceof Ext);
    assert.deepEqual([value.type, value.data.length], [-5, length]);
  }
});

test("keys", () => {
  assert.deepEqual(decode(bytes(0x81, 5, 6)), { 5: 6 });
  refuses(() => decode(bytes(0x81, 0xc0, 6)), /key/);
  refuses(() => decode(bytes(0x81, 0x90, 6)), /nested|key/);
  const evil = decode(encode(JSON.parse('{"__proto__": {"isAdmin": true}}')));
  assert.equal(evil.isAdmin, undefined);
  assert.deepEqual(Object.keys(evil), ["__proto__"]);
});

test("values that have no form", () => {
  for (const value of [() => {}, Symbol("s"), new Map(), new Set(), [() => {}]]) refuses(() => encode(value), /cannot write/);
});

test("nesting has a bound, both ways", () => {
  let value = 1;
  for (let depth = 0; depth < 128; depth++) value = [value];
  assert.deepEqual(decode(encode(value)), value);
  refuses(() => encode([value]), /nested/);
  refuses(() => decode(new Uint8Array(100_000).fill(0x91)), /nested/);
  const loop = [];
  loop.push(loop);
  refuses(() => encode(loop), /nested/);
});

test("a length that is a lie costs nothing", () => {
  for (const head of [0xdd, 0xdf, 0xdb, 0xc6, 0xc9]) refuses(() => decode(bytes(head, 0xff, 0xff, 0xff, 0xff)), /cut off/);
});

test("a backoff draws from 0 to a bound that grows to its cap", () => {
  const draws = [0.5, 0, 0.999, 1, 1, 1, 1, 1];
  const backoff = new Backoff({ base: 100, factor: 3, cap: 1000, random: () => draws.shift() });
  assert.deepEqual([1, 2, 3, 4, 5].map(() => backoff.next()), [50, 0, 899.1, 1000, 1000]);
  backoff.ended(9_999);
  assert.equal(backoff.failures, 5);
  backoff.ended(10_000);
  assert.equal(backoff.next(), 100);
  const many = new Backoff({ random: () => 1 });
  for (let n = 0; n < 2000; n++) assert.ok(many.next() <= 30_000);
});
