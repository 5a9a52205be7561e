// What the tests of the browser's modules share: time that moves when told, and a socket whose other end is the test.

import assert from "node:assert/strict";

import { Session, decode, encode } from "../../../trioweb/browser/trioweb.js";

const immediate = globalThis.setImmediate;

// Let everything that is ready run.
export async function settle() {
  for (let turn = 0; turn < 4; turn++) await new Promise((done) => immediate(done));
}

// Timers and performance.now() stand still until `advance`.
export class Clock {
  #real = { setTimeout, clearTimeout, now: performance.now };
  #timers = new Map();
  #lastId = 0;
  now = 1000;

  constructor() {
    globalThis.setTimeout = (run, delay = 0) => {
      this.#timers.set(++this.#lastId, { run, at: this.now + delay });
      return this.#lastId;
    };
    globalThis.clearTimeout = (id) => void this.#timers.delete(id);
    performance.now = () => this.now;
  }

  get timers() {
    return this.#timers.size;
  }

  async advance(ms) {
    const end = this.now + ms;
    await settle();
    while (true) {
      const [next] = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at);
      if (!next) break;
      const [id, { run, at }] = next;
      this.#timers.delete(id);
      this.now = Math.max(at, this.now);
      run();
      await settle();
    }
    this.now = end;
  }

  restore() {
    globalThis.setTimeout = this.#real.setTimeout;
    globalThis.clearTimeout = this.#real.clearTimeout;
    performance.now = this.#real.now;
  }
}

// As much of a WebSocket as a session uses; the test is the server.
export class FakeSocket {
  static made = [];
  readyState = 0;
  bufferedAmount = 0;
  binaryType = "blob";
  sent = [];
  closed = null;

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
    FakeSocket.made.push(this);
  }

  send(data) {
    assert.equal(this.readyState, 1, "sent on a socket that is not open");
    this.sent.push(data);
  }

  close(code, reason) {
    if (this.readyState < 2) this.closed = { code, reason };
    this.readyState = 2;
  }

  // ---- The server's side ----

  async open() {
    assert.equal(this.binaryType, "arraybuffer");
    this.readyState = 1;
    this.onopen?.();
    await settle();
  }

  // Take all that the session has sent, as messages.
  take() {
    return this.sent.splice(0).map((data) => (typeof data === "string" ? JSON.parse(data) : decode(data)));
  }

  // Take the only message that the session has sent.
  takeOne(expected) {
    const all = this.take();
    assert.equal(all.length, 1, JSON.stringify(all));
    if (expected) assert.deepEqual(all[0], { ...all[0], ...expected });
    return all[0];
  }

  async say(message, binary = false) {
    const data = binary ? encode(message).buffer : typeof message === "string" ? message : JSON.stringify(message);
    this.onmessage?.({ data });
    await settle();
  }

  async end(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
    await settle();
  }
}

export const latest = () => FakeSocket.made.at(-1);

// A session on a fake socket, with no chance in its waits and no heartbeat unless told; `errors` is what it reports.
export async function begin({ errors = [], isOpen = true, ...options } = {}) {
  const session = new Session("ws://test/", {
    WebSocket: FakeSocket,
    backoff: { random: () => 1 },
    heartbeat: null,
    onError: (error) => errors.push(error),
    ...options,
  });
  await settle();
  if (isOpen) await latest().open();
  return { session, socket: latest(), errors };
}

// The connection breaks, and the next one opens.
export async function again(clock, code = 1006) {
  const { length } = FakeSocket.made;
  await latest().end(code);
  while (FakeSocket.made.length === length) await clock.advance(500);
  await latest().open();
  return latest();
}

// Whether a promise is still waiting.
export async function isPending(promise) {
  const nothing = Symbol("nothing");
  await settle();
  return (await Promise.race([promise, Promise.resolve(nothing)])) === nothing;
}
