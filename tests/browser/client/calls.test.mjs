// Calls both ways, their streams and their ends.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { CallError, CallTimeout, CallLost, QueueFull } from "../../../trioweb/browser/trioweb.js";
import { Clock, FakeSocket, again, begin, isPending, settle } from "./kit.mjs";

let clock;
beforeEach(() => {
  clock = new Clock();
  FakeSocket.made = [];
});
afterEach(() => clock.restore());

// ---- Ours --------------------------------------------------------------------------------------------------

test("a call goes out with its time, and its result comes back", async () => {
  const { session, socket } = await begin();
  const call = session.call("add", [1, 2], { timeout: 2500 });
  assert.deepEqual(socket.takeOne(), { type: "call", id: 1, method: "add", params: [1, 2], timeout: 2.5 });
  await socket.say({ type: "result", id: 1, value: 3 });
  assert.equal(await call, 3);
  assert.equal(session.statistics().calls, 0);
  assert.equal(clock.timers, 0);
});

test("a call that waited for a connection tells what is left of its time", async () => {
  const { session, socket } = await begin({ isOpen: false });
  session.call("late", null, { timeout: 2500 }).catch(() => {});
  session.call("whenever", null, { timeout: null }).catch(() => {});
  await clock.advance(1000);
  await socket.open();
  assert.deepEqual(socket.take().map(({ timeout }) => timeout), [1.5, undefined]);
  session.close();
});

test("calls have 30 seconds unless told", async () => {
  const { session, socket } = await begin();
  const rejection = assert.rejects(session.call("slow"), CallTimeout);
  await clock.advance(30_000);
  await rejection;
  assert.deepEqual(socket.take().map(({ type }) => type), ["call", "cancel"]);
});

test("an error has all that the server said", async () => {
  const { session, socket } = await begin();
  const call = session.call("add", ["x"]);
  const rejection = assert.rejects(call, (error) => {
    assert.ok(error instanceof CallError);
    const { name, code, message, path, data } = error;
    assert.deepEqual({ name, code, message, path, data }, {
      name: "CallError", code: "invalid", message: "no number", path: "$.params[0]", data: { got: "x" },
    });
    return true;
  });
  await socket.say({ type: "error", id: 1, code: "invalid", message: "no number", path: "$.params[0]", data: { got: "x" } });
  await rejection;
  assert.deepEqual(socket.take().map(({ type }) => type), ["call"]);
});

test("a timeout at the server is one here, and needs no cancel", async () => {
  const { session, socket } = await begin();
  const rejection = assert.rejects(session.call("slow"), CallTimeout);
  await socket.say({ type: "error", id: 1, code: "timeout" });
  await rejection;
  assert.deepEqual(socket.take().map(({ type }) => type), ["call"]);
});

test("a signal ends a call at the server, with the signal's reason", async () => {
  const { session, socket } = await begin();
  const controller = new AbortController();
  const rejection = assert.rejects(session.call("slow", null, { signal: controller.signal }), /enough/);
  controller.abort(new Error("enough"));
  await rejection;
  assert.deepEqual(socket.take().map(({ type, id }) => [type, id]), [["call", 1], ["cancel", 1]]);
  await socket.say({ type: "result", id: 1, value: "too late" });
  await assert.rejects(session.call("slow", null, { signal: controller.signal }), /enough/);
  assert.deepEqual(socket.take(), []);
});

test("a call that is given up in the queue never leaves it", async () => {
  const { session, socket } = await begin({ isOpen: false });
  const controller = new AbortController();
  const rejections = [
    assert.rejects(session.call("one", null, { signal: controller.signal })),
    assert.rejects(session.call("two", null, { timeout: 100 }), CallTimeout),
  ];
  controller.abort();
  await clock.advance(100);
  await Promise.all(rejections);
  assert.equal(session.statistics().queuedItems, 0);
  await socket.open();
  assert.deepEqual(socket.take(), []);
});

test("a broken link fails what is under way at once", async () => {
  const { session, socket } = await begin();
  const rejection = assert.rejects(session.call("slow"), CallLost);
  await socket.end();
  await rejection;
  const next = await again(clock);
  assert.deepEqual(next.take(), []);
});

test("what may be repeated goes out again with its key, before what came later", async () => {
  const { session, socket } = await begin();
  const call = session.call("pay", { sum: 5 }, { repeat: true });
  const other = session.call("order", null, { repeat: "my-key" });
  const [first, second] = socket.take();
  assert.match(first.key, /^[0-9a-f]{32}$/);
  assert.equal(second.key, "my-key");
  await socket.end();
  session.notify("later");
  const next = await again(clock);
  const sent = next.take();
  assert.deepEqual(sent.map(({ method, id, key }) => [method, id, key]), [
    ["pay", 1, first.key], ["order", 2, "my-key"], ["later", undefined, undefined],
  ]);
  assert.deepEqual(sent[0].params, { sum: 5 });
  assert.equal(sent[0].timeout, 29.5);
  await next.say({ type: "result", id: 2, value: "b" });
  await next.say({ type: "result", id: 1, value: "a" });
  assert.deepEqual([await call, await other], ["a", "b"]);
});

test("what a server that goes away has cancelled goes out again, on the next link or on this one", async () => {
  const { session, socket } = await begin();
  const paid = session.call("pay", null, { repeat: "k" });
  const cancelled = { type: "error", code: "cancelled", message: "going away" };
  await socket.say({ ...cancelled, id: socket.takeOne().id });
  const next = await again(clock, 1001);
  await next.say({ ...cancelled, id: next.takeOne({ method: "pay", key: "k" }).id });
  await next.say({ ...cancelled, id: 1 });
  await clock.advance(499);
  assert.deepEqual(next.take(), []);
  await clock.advance(1);
  await next.say({ type: "result", id: next.takeOne({ method: "pay", key: "k" }).id, value: 1 });
  assert.equal(await paid, 1);
  const other = session.call("pay", null, { repeat: true, timeout: 100 });
  await next.say({ ...cancelled, id: next.takeOne().id });
  await Promise.all([assert.rejects(other, CallTimeout), clock.advance(100)]);
  const last = session.call("pay", null, { repeat: true, timeout: null });
  next.take();
  await next.say({ ...cancelled, id: 4 });
  await Promise.all([assert.rejects(last), session.close()]);
  assert.equal(clock.timers, 0);
});

test("a value that has no form fails its call, and nothing else", async () => {
  const { session, socket } = await begin();
  const loop = {};
  loop.loop = loop;
  await assert.rejects(session.call("one", loop), TypeError);
  await assert.rejects(session.call("one", 1n), TypeError);
  assert.throws(() => session.notify("one", loop), TypeError);
  assert.deepEqual(socket.take(), []);
  assert.equal(session.statistics().calls, 0);
});

test("calls under way have a bound", async () => {
  const { session } = await begin({ maxCalls: 2 });
  session.call("one").catch(() => {});
  session.call("two").catch(() => {});
  await assert.rejects(session.call("three"), QueueFull);
  session.close();
});

// ---- Streams -----------------------------------------------------------------------------------------------

test("a stream asks for more as its items are taken", async () => {
  const { session, socket } = await begin();
  const stream = session.stream("count", { to: 5 }, { window: 4 });
  await settle();
  assert.deepEqual(socket.take(), [], "it begins when somebody iterates");
  const first = stream.next();
  await settle();
  assert.deepEqual(socket.takeOne(), { type: "call", id: 1, method: "count", params: { to: 5 }, window: 4 });
  for (const value of [1, 2, 3, 4]) await socket.say({ type: "item", id: 1, value });
  assert.deepEqual(await first, { done: false, value: 1 });
  assert.deepEqual(socket.take(), []);
  assert.deepEqual(await stream.next(), { done: false, value: 2 });
  assert.deepEqual(socket.takeOne(), { type: "more", id: 1, count: 2 });
  await socket.say({ type: "item", id: 1, value: 5 });
  await socket.say({ type: "result", id: 1, value: "the end" });
  const rest = [];
  for await (const value of stream) rest.push(value);
  assert.deepEqual(rest, [3, 4, 5]);
  assert.equal(session.statistics().calls, 0);
});

test("what a stream returns, and what it throws behind its items", async () => {
  const { session, socket } = await begin();
  const returning = session.stream("one");
  const first = returning.next();
  await socket.say({ type: "result", id: 1, value: 7 });
  assert.deepEqual(await first, { done: true, value: 7 });
  const failing = session.stream("two");
  const item = failing.next();
  await socket.say({ type: "item", id: 2 });
  await socket.say({ type: "error", id: 2, code: "conflict" });
  assert.deepEqual(await item, { done: false, value: null });
  await assert.rejects(failing.next(), { code: "conflict" });
});

test("leaving the loop ends the call at the server", async () => {
  const { session, socket } = await begin();
  setImmediate(() => void socket.say({ type: "item", id: 1, value: "only" }));
  for await (const value of session.stream("count")) {
    assert.equal(value, "only");
    break;
  }
  assert.deepEqual(socket.take().map(({ type }) => type), ["call", "cancel"]);
});

test("a stream ends with its signal, its time and its link", async () => {
  const { session, socket } = await begin();
  const controller = new AbortController();
  const aborted = assert.rejects(session.stream("a", null, { signal: controller.signal }).next(), { name: "AbortError" });
  const late = assert.rejects(session.stream("b", null, { timeout: 100 }).next(), CallTimeout);
  const broken = assert.rejects(session.stream("c").next(), CallLost);
  await settle();
  controller.abort();
  await clock.advance(100);
  await socket.end();
  await Promise.all([aborted, late, broken]);
});

test("more items than were asked for end the stream", async () => {
  const { session, socket } = await begin();
  const stream = session.stream("count", null, { window: 1 });
  const first = stream.next();
  await settle();
  for (const value of [1, 2, 3, 4]) await socket.say({ type: "item", id: 1, value });
  assert.equal((await first).value, 1);
  await stream.next();
  await assert.rejects(stream.next(), { name: "Malformed" });
  const sent = socket.take().map(({ type }) => type);
  assert.deepEqual(sent.filter((type) => type === "cancel" || type === "error"), ["cancel", "error"]);
});

test("an item for a call that asked for none fails it", async () => {
  const { session, socket } = await begin();
  const rejection = assert.rejects(session.call("one"), { name: "Malformed" });
  await socket.say({ type: "item", id: 1 });
  await rejection;
  assert.equal(session.statistics().malformed, 1);
});

// ---- The server's ------------------------------------------------------------------------------------------

test("the server calls methods of ours", async () => {
  const { session, socket } = await begin();
  session.methods.set("add", ([a, b]) => a + b);
  session.methods.set("nothing", () => {});
  await socket.say({ type: "call", id: 5, method: "add", params: [1, 2] });
  assert.deepEqual(socket.takeOne(), { type: "result", id: 5, value: 3 });
  await socket.say({ type: "call", id: 6, method: "nothing" });
  assert.deepEqual(socket.takeOne(), { type: "result", id: 6 });
  await socket.say({ type: "call", id: 7, method: "ping" });
  assert.deepEqual(socket.takeOne(), { type: "result", id: 7 });
  await socket.say({ type: "call", id: 8, method: "constructor" });
  socket.takeOne({ id: 8, code: "unknown-method" });
});

test("a method fails as it says, or internally and to our own log", async () => {
  const { session, socket, errors } = await begin();
  session.methods.set("say", () => {
    throw new CallError("not-found", "no such page", { path: "$.params.page", data: 4 });
  });
  session.methods.set("bug", async () => {
    throw new Error("a secret");
  });
  await socket.say({ type: "call", id: 1, method: "say" });
  assert.deepEqual(socket.takeOne(), {
    type: "error", id: 1, code: "not-found", message: "no such page", path: "$.params.page", data: 4,
  });
  await socket.say({ type: "call", id: 2, method: "bug" });
  const { code, message } = socket.takeOne();
  assert.equal(code, "internal");
  assert.doesNotMatch(message, /secret/);
  assert.deepEqual(errors.map(String), ["Error: a secret"]);
});

test("a cancel, a deadline and a broken link abort a method", async () => {
  const { session, socket } = await begin();
  const signals = [];
  session.methods.set("slow", (params, { signal, timeout }) => {
    signals.push([signal, timeout]);
    return new Promise(() => {});
  });
  await socket.say({ type: "call", id: 1, method: "slow" });
  await socket.say({ type: "call", id: 2, method: "slow", timeout: 1.5 });
  await socket.say({ type: "call", id: 3, method: "slow" });
  assert.equal(session.statistics().answers, 3);
  await socket.say({ type: "cancel", id: 1 });
  assert.deepEqual(socket.take(), []);
  await clock.advance(1500);
  assert.deepEqual(socket.takeOne().code, "timeout");
  await socket.end();
  assert.deepEqual(signals.map(([signal]) => signal.aborted), [true, true, true]);
  assert.deepEqual(signals.map(([, timeout]) => timeout), [null, 1500, null]);
  assert.equal(session.statistics().answers, 0);
  const next = await again(clock);
  assert.deepEqual(next.take(), []);
});

test("calls at once have a bound", async () => {
  const { session, socket } = await begin({ maxAnswers: 1 });
  session.methods.set("slow", () => new Promise(() => {}));
  await socket.say({ type: "call", id: 1, method: "slow" });
  await socket.say({ type: "call", id: 2, method: "slow" });
  socket.takeOne({ id: 2, code: "busy" });
});

test("a method that yields is a stream, as fast as the server takes it", async () => {
  const { session, socket } = await begin();
  let left = false;
  session.methods.set("count", async function* ({ to }) {
    try {
      for (let n = 1; n <= to; n++) yield n;
      return "done";
    } finally {
      left = true;
    }
  });
  await socket.say({ type: "call", id: 1, method: "count", params: { to: 3 }, window: 2 });
  assert.deepEqual(socket.take().map(({ value }) => value), [1, 2]);
  await socket.say({ type: "more", id: 1, count: 5 });
  assert.deepEqual(socket.take().map(({ type, value }) => [type, value]), [["item", 3], ["result", "done"]]);
  left = false;
  await socket.say({ type: "call", id: 2, method: "count", params: { to: 3 }, window: 1 });
  socket.take();
  await socket.say({ type: "cancel", id: 2 });
  assert.equal(left, true, "a stream that is cancelled is closed");
  assert.deepEqual(socket.take(), []);
  await socket.say({ type: "call", id: 3, method: "count", params: { to: 3 } });
  socket.takeOne({ id: 3, code: "invalid" });
});

test("the same call again is not run twice", async () => {
  const { session, socket } = await begin();
  let runs = 0;
  session.methods.set("pay", () => ++runs);
  session.methods.set("refuse", () => {
    throw new CallError("conflict", `run ${++runs}`);
  });
  await socket.say({ type: "call", id: 1, method: "pay", key: "k" });
  await socket.say({ type: "call", id: 2, method: "pay", key: "k" });
  await socket.end();
  const next = await again(clock);
  await next.say({ type: "call", id: 1, method: "pay", key: "k" });
  assert.deepEqual([...socket.take(), ...next.take()].map(({ value }) => value), [1, 1, 1]);
  await next.say({ type: "call", id: 2, method: "refuse", key: "r" });
  await next.say({ type: "call", id: 3, method: "refuse", key: "r" });
  assert.deepEqual(next.take().map(({ message }) => message), ["run 2", "run 2"]);
  await next.say({ type: "call", id: 4, method: "pay", key: "other" });
  next.takeOne({ value: 3 });
});

test("a call with a key goes on when the link breaks, and the next link gets its result", async () => {
  const { session, socket } = await begin();
  let [runs, release, signal] = [0, null, null];
  session.methods.set("pay", (params, context) => {
    signal = context.signal;
    return new Promise((done) => (release = () => done(++runs)));
  });
  await socket.say({ type: "call", id: 1, method: "pay", key: "k" });
  const next = await again(clock);
  assert.equal(signal.aborted, false);
  await next.say({ type: "call", id: 9, method: "pay", key: "k" });
  release();
  await settle();
  assert.deepEqual(next.takeOne(), { type: "result", id: 9, value: 1 });
  await next.say({ type: "call", id: 10, method: "pay", key: "cancelled" });
  await next.say({ type: "cancel", id: 10 });
  assert.equal(signal.aborted, true);
  await next.say({ type: "call", id: 11, method: "pay", key: "cancelled" });
  release();
  await settle();
  next.takeOne({ id: 11, value: 2 });
  await next.say({ type: "call", id: 12, method: "pay", key: "last" });
  await session.close();
  assert.equal(signal.aborted, true);
  assert.equal(clock.timers, 0);
});

test("a run with a key goes on while anybody waits for it, and ends when nobody does", async () => {
  const { session, socket } = await begin();
  let [runs, signal, release] = [0, null, null];
  session.methods.set("pay", (params, context) => {
    runs++;
    signal = context.signal;
    return new Promise((done, fail) => {
      release = done;
      signal.addEventListener("abort", () => fail(signal.reason));
    });
  });
  for (const id of [1, 2]) await socket.say({ type: "call", id, method: "pay", key: "k" });
  await socket.say({ type: "cancel", id: 1 });
  assert.equal(signal.aborted, false);
  const next = await again(clock);
  await next.say({ type: "call", id: 1, method: "pay", key: "k" });
  assert.equal(runs, 1);
  await next.say({ type: "cancel", id: 1 });
  assert.equal(signal.aborted, true, "given up on another link than where it began");
  await next.say({ type: "call", id: 2, method: "pay", key: "k" });
  assert.equal(runs, 2);
  release("paid");
  await settle();
  assert.deepEqual(next.take(), [{ type: "result", id: 2, value: "paid" }]);
  assert.equal(session.statistics().answers, 0);
  session.close();
});

test("a run that is deaf to its end is not run beside another one of its key", async () => {
  const { session, socket, errors } = await begin();
  let [runs, fail] = [0, null];
  session.methods.set("pay", () => {
    runs++;
    return new Promise((done, no) => (fail = no));
  });
  await socket.say({ type: "call", id: 1, method: "pay", key: "k" });
  await socket.say({ type: "cancel", id: 1 });
  await socket.say({ type: "call", id: 2, method: "pay", key: "k" });
  assert.equal(runs, 1);
  fail(new Error("cut off"));
  await settle();
  assert.equal(runs, 2);
  assert.deepEqual(errors, []);
  fail(new CallError("no-money"));
  await settle();
  assert.deepEqual(socket.take(), [{ type: "error", id: 2, code: "no-money" }]);
  session.close();
});

test("the failure of a run whose link is gone is reported", async () => {
  const { session, socket, errors } = await begin();
  let fail;
  session.methods.set("pay", () => new Promise((done, no) => (fail = no)));
  await socket.say({ type: "call", id: 1, method: "pay", key: "k" });
  await again(clock);
  fail(new Error("broken"));
  await settle();
  assert.deepEqual(errors.map(String), ["Error: broken"]);
  session.close();
});

test("an error whose data has no form is answered nevertheless, and stops nothing", async () => {
  const { session, socket, errors } = await begin();
  session.methods.set("refuse", () => {
    throw new CallError("no", "", { data: 1n });
  });
  await socket.say({ type: "call", id: 1, method: "refuse" });
  socket.takeOne({ type: "error", id: 1, code: "internal" });
  assert.equal(errors.length, 1);
  socket.bufferedAmount = 1e9;
  await socket.say({ type: "call", id: 2, method: "refuse" });
  session.notify("hello");
  socket.bufferedAmount = 0;
  await clock.advance(100);
  assert.deepEqual(socket.take().map(({ id, method }) => id ?? method), [2, "hello"]);
  session.close();
});

test("what runs is bounded, though nobody waits for it", async () => {
  const { session, socket } = await begin({ maxAnswers: 4 });
  let running = 0;
  session.methods.set("deaf", () => {
    running++;
    return new Promise(() => {});
  });
  for (let id = 1; id <= 50; id++) {
    await socket.say({ type: "call", id, method: "deaf" });
    await socket.say({ type: "cancel", id });
  }
  assert.equal(running, 8);
  assert.equal(socket.take().filter(({ code }) => code === "busy").length, 42);
  for (let n = 0; n < 50; n++) await socket.say({ type: "notify", method: "deaf" });
  assert.equal(running, 8);
  assert.equal(session.statistics().droppedNotifications, 50);
  session.close();
  const other = await begin({ maxAnswers: 4 });
  other.session.methods.set("deaf", () => new Promise(() => running++));
  running = 0;
  for (let n = 0; n < 50; n++) await other.socket.say({ type: "notify", method: "deaf" });
  assert.equal(running, 4);
  other.session.close();
});

test("a stream takes no key", async () => {
  const { session, socket } = await begin();
  session.methods.set("count", async function* () {
    yield 1;
  });
  await socket.say({ type: "call", id: 1, method: "count", key: "k", window: 5 });
  socket.takeOne({ id: 1, code: "invalid", path: "$.key" });
});

test("results with keys are kept up to a number, and no call is run for which there is no place", async () => {
  const { session, socket } = await begin({ maxAnswers: 1000 });
  let runs = 0;
  session.methods.set("quick", () => ++runs);
  session.methods.set("slow", () => new Promise(() => {}));
  for (let id = 1; id <= 257; id++) await socket.say({ type: "call", id, method: "quick", key: `k${id}` });
  socket.take();
  await socket.say({ type: "call", id: 300, method: "quick", key: "k257" });
  socket.takeOne({ value: 257 });
  await socket.say({ type: "call", id: 301, method: "quick", key: "k1" });
  socket.takeOne({ value: 258 });
  for (let id = 1000; id < 1256; id++) await socket.say({ type: "call", id, method: "slow", key: `s${id}` });
  assert.deepEqual(socket.take(), []);
  await socket.say({ type: "call", id: 2000, method: "quick", key: "one more" });
  socket.takeOne({ id: 2000, code: "busy" });
  session.close();
});

test("a number that is in use is no number for another call", async () => {
  const { session, socket } = await begin();
  session.methods.set("slow", () => new Promise(() => {}));
  await socket.say({ type: "call", id: 1, method: "slow" });
  await socket.say({ type: "call", id: 1, method: "slow" });
  assert.deepEqual(socket.takeOne(), { type: "error", code: "invalid", message: "call 1 is still running" });
});

test("a timeout of a call that a method has made is not that of the server's call", async () => {
  const { session, socket, errors } = await begin();
  session.methods.set("relay", () => session.call("slow", null, { timeout: 10 }));
  await socket.say({ type: "call", id: 1, method: "relay" });
  await clock.advance(10);
  assert.equal(socket.take().at(-1).code, "internal");
  assert.equal(errors[0].name, "CallTimeout");
});

test("notifications run a method without an answer", async () => {
  const { session, socket, errors } = await begin();
  const heard = [];
  session.methods.set("typing", (who) => heard.push(who));
  session.methods.set("bug", () => Promise.reject(new Error("oops")));
  await socket.say({ type: "notify", method: "typing", params: "Ada" });
  await socket.say({ type: "notify", method: "bug" });
  await socket.say({ type: "notify", method: "nobody" });
  assert.deepEqual(heard, ["Ada"]);
  assert.deepEqual(errors.map(String), ["Error: oops"]);
  assert.deepEqual(socket.take(), []);
});

test("who asks and does not read loses the connection", async () => {
  const { session, socket } = await begin({ queue: { items: 3 } });
  socket.bufferedAmount = 2 ** 20;
  for (let id = 1; id <= 4; id++) await socket.say({ type: "call", id, method: "ping" });
  assert.deepEqual(socket.closed, { code: 4013, reason: "slow consumer" });
  assert.equal(session.state, "waiting");
  assert.equal(session.statistics().queuedItems, 0);
});

test("a stream of ours waits while the socket holds too much", async () => {
  const { session, socket } = await begin();
  let made = 0;
  session.methods.set("count", async function* () {
    while (true) yield ++made;
  });
  socket.bufferedAmount = 2 ** 20;
  await socket.say({ type: "call", id: 1, method: "count", window: 1000 });
  await clock.advance(100);
  assert.equal(made, 0);
  await socket.say({ type: "cancel", id: 1 });
  socket.bufferedAmount = 0;
  await clock.advance(100);
  assert.deepEqual(socket.take(), []);
  assert.ok(made <= 1);
});

test("nothing of a call is left behind", async () => {
  const { session, socket } = await begin();
  assert.equal(await isPending(session.call("one")), true);
  await socket.say({ type: "result", id: 1 });
  const { calls, answers, queuedItems } = session.statistics();
  assert.deepEqual([calls, answers, queuedItems, clock.timers], [0, 0, 0, 0]);
});
