// Connections one after the other: when a session comes back, when it does not, and what it keeps.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { CallLost, QueueFull, Session, SessionClosed, TooLarge, isTerminal } from "../../../trioweb/browser/trioweb.js";
import { Clock, FakeSocket, again, begin, latest, settle } from "./kit.mjs";

let clock;
beforeEach(() => {
  clock = new Clock();
  FakeSocket.made = [];
});
afterEach(() => clock.restore());

const statesOf = (session) => {
  const states = [];
  session.addEventListener("state", ({ detail }) => states.push(detail));
  return states;
};

test("the codes that are terminal", () => {
  for (const code of [1002, 1003, 1007, 1008, 1009, 1010, 3500, 3999, 4500, 4999]) assert.equal(isTerminal(code), true);
  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 1013, 3000, 3499, 4000, 4401, 4499]) {
    assert.equal(isTerminal(code), false, code);
  }
});

test("a session comes back after longer and longer waits, and is told how the connection ended", async () => {
  const { session, socket } = await begin();
  const states = statesOf(session);
  await socket.end(1012, "restarting");
  assert.deepEqual(states, [{ state: "waiting", close: { code: 1012, reason: "restarting" }, delay: 500 }]);
  for (const wait of [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]) {
    await clock.advance(wait - 1);
    assert.equal(session.state, "waiting");
    await clock.advance(1);
    assert.equal(session.state, "connecting");
    await latest().end();
  }
  assert.equal(session.statistics().failures, 9);
});

test("a connection that stayed open for a while makes the next wait short again", async () => {
  const { session, socket } = await begin();
  await clock.advance(9_999);
  await socket.end();
  await clock.advance(500);
  await latest().open();
  await latest().end();
  assert.equal(session.statistics().failures, 2, "a server that accepts and drops at once meets the backoff");
  await clock.advance(1000);
  await latest().open();
  await clock.advance(10_000);
  await latest().end();
  assert.equal(session.statistics().failures, 1);
});

test("a terminal code ends the session, and all that waits for it", async () => {
  const { session, socket } = await begin();
  const rejections = [
    assert.rejects(session.call("slow"), CallLost),
    assert.rejects(session.call("slow", null, { repeat: true }), SessionClosed),
    assert.rejects(session.subscribe("news").next(), SessionClosed),
  ];
  await socket.end(1008, "go away");
  await Promise.all(rejections);
  assert.deepEqual(await session.closed, { code: 1008, reason: "go away" });
  assert.equal(session.state, "closed");
  await assert.rejects(session.call("more"), (error) => error instanceof SessionClosed && error.close.code === 1008);
  assert.throws(() => session.notify("more"), SessionClosed);
  await clock.advance(1e6);
  assert.equal(FakeSocket.made.length, 1);
  assert.equal(clock.timers, 0);
});

test("after so many attempts the session gives up", async () => {
  const { session } = await begin({ backoff: { attempts: 3, random: () => 1 }, isOpen: false });
  await latest().end();
  await clock.advance(500);
  await latest().end();
  assert.equal(session.state, "waiting");
  await clock.advance(1000);
  await latest().end();
  assert.equal(session.state, "closed");
  assert.equal(FakeSocket.made.length, 3);
});

test("closing ends everything at once, and leaves no timer", async () => {
  const { session, socket } = await begin({ heartbeat: { interval: 1000, timeout: 1000 } });
  const call = session.call("slow");
  const subscription = session.subscribe("news");
  const next = subscription.next();
  const closed = session.close(4000, "bye");
  assert.deepEqual(socket.closed, { code: 4000, reason: "bye" });
  assert.deepEqual(await closed, { code: 4000, reason: "bye" });
  await assert.rejects(call, SessionClosed);
  assert.deepEqual(await next, { done: true, value: undefined });
  assert.equal(clock.timers, 0);
});

test("closing while waiting, or while the first connection is made", async () => {
  const one = await begin();
  await one.socket.end();
  await one.session.close();
  const two = await begin({ isOpen: false });
  await two.session.close();
  assert.equal(two.socket.readyState, 2);
  assert.equal(clock.timers, 0);
  await clock.advance(1e6);
  assert.equal(FakeSocket.made.length, 2);
});

test("closing by whoever is told of a state, whichever it is", async () => {
  for (const state of ["connecting", "open", "waiting"]) {
    const { session, socket } = await begin();
    session.addEventListener("state", ({ detail }) => detail.state === state && session.close());
    await socket.end();
    await clock.advance(1000);
    if (state === "open") await latest().open();
    assert.equal(session.state, "closed");
    assert.equal(clock.timers, 0);
    const { length } = FakeSocket.made;
    await clock.advance(1e6);
    assert.equal(FakeSocket.made.length, length, "nobody comes back");
    assert.equal(session.state, "closed");
  }
});

test("a code that a page may not use closes nothing", async () => {
  const { session, socket } = await begin();
  for (const code of [1001, 999, 5000, "1000"]) assert.throws(() => session.close(code), RangeError);
  assert.throws(() => session.close(1000, "é".repeat(62)), RangeError);
  assert.equal(session.state, "open");
  await session.close(1000, "é".repeat(61));
  assert.equal(socket.closed.code, 1000);
});

test("an attempt that takes too long is given up", async () => {
  const { session, socket } = await begin({ isOpen: false, connectTimeout: 3000 });
  await clock.advance(3000);
  assert.equal(socket.readyState, 2);
  assert.equal(session.state, "waiting");
});

test("the address may be a function, and one that fails is a failed attempt", async () => {
  const urls = [() => "ws://test/?token=1", () => Promise.reject(new Error("no token")), async () => "http://test/?token=2"];
  const errors = [];
  const session = new Session(() => urls.shift()(), {
    WebSocket: FakeSocket,
    backoff: { random: () => 1 },
    onError: (error) => errors.push(error.message),
  });
  await settle();
  assert.equal(latest().url, "ws://test/?token=1");
  await latest().end();
  await clock.advance(500);
  assert.deepEqual(errors, ["no token"]);
  await clock.advance(1000);
  assert.equal(latest().url, "ws://test/?token=2");
  session.close();
});

test("an address or a first message that never comes is a failed attempt", async () => {
  const never = () => new Promise(() => {});
  const errors = [];
  const options = { WebSocket: FakeSocket, backoff: { random: () => 1 }, heartbeat: null, connectTimeout: 3000 };
  const one = new Session(never, { ...options, onError: (error) => errors.push(error) });
  await clock.advance(3000);
  assert.equal(one.state, "waiting");
  await clock.advance(600);
  assert.equal(one.state, "connecting");
  one.close();
  const two = await begin({ first: never, connectTimeout: 3000, errors });
  await clock.advance(3000);
  assert.equal(two.session.state, "waiting");
  assert.equal(two.socket.closed.code, 4000);
  assert.equal(errors.length, 2);
  two.session.close();
  const three = await begin({ first: never, connectTimeout: 3000, errors });
  await three.socket.end();
  assert.equal(clock.timers, 1, "that of the next attempt");
  three.session.close();
  assert.equal(clock.timers, 0);
  await clock.advance(10_000);
  assert.equal(errors.length, 2);
});

test("the first message goes before all others, on each connection", async () => {
  let token = 0;
  const { session, socket } = await begin({ first: async () => `token ${++token}`, isOpen: false });
  session.notify("hello");
  session.subscribe("news");
  await socket.open();
  assert.deepEqual(socket.sent.map((data) => data.slice(0, 14)), ["token 1", '{"type":"call"', '{"type":"notif']);
  const next = await again(clock);
  assert.equal(next.sent[0], "token 2");
});

test("what is sent while there is no connection leaves in order when there is one", async () => {
  const { session, socket } = await begin({ isOpen: false });
  session.notify("one", { n: 1 });
  const call = session.call("two");
  session.notify("three");
  assert.equal(session.statistics().queuedItems, 3);
  await socket.open();
  assert.deepEqual(socket.take().map(({ method }) => method), ["one", "two", "three"]);
  await socket.say({ type: "result", id: 1, value: 2 });
  assert.equal(await call, 2);
  assert.equal(session.statistics().queuedBytes, 0);
});

test("what waits is a copy of what was given", async () => {
  const { session, socket } = await begin({ isOpen: false });
  const params = { n: 1 };
  session.notify("one", params);
  params.n = 2;
  await socket.open();
  assert.deepEqual(socket.takeOne().params, { n: 1 });
});

test("a full queue refuses, or drops, as the session was told", async () => {
  const failing = await begin({ isOpen: false, queue: { items: 2 } });
  failing.session.notify("one");
  failing.session.notify("two");
  assert.throws(() => failing.session.notify("three"), QueueFull);
  await assert.rejects(failing.session.call("three"), QueueFull);
  assert.equal(failing.session.statistics().calls, 0);

  const newest = await begin({ isOpen: false, queue: { items: 2, overflow: "drop-newest" } });
  for (const name of ["one", "two", "three"]) newest.session.notify(name);
  await assert.rejects(newest.session.call("four"), QueueFull);
  await newest.socket.open();
  assert.deepEqual(newest.socket.take().map(({ method }) => method), ["one", "two"]);
  assert.equal(newest.session.statistics().dropped, 2);

  const oldest = await begin({ isOpen: false, queue: { items: 2, overflow: "drop-oldest" } });
  const call = oldest.session.call("one");
  for (const name of ["two", "three"]) oldest.session.notify(name);
  await assert.rejects(call, QueueFull);
  await oldest.socket.open();
  assert.deepEqual(oldest.socket.take().map(({ method }) => method), ["two", "three"]);
});

test("the queue is bounded in bytes", async () => {
  const { session } = await begin({ isOpen: false, queue: { bytes: 1000 } });
  session.notify("large", "x".repeat(800));
  assert.throws(() => session.notify("large", "x".repeat(800)), QueueFull);
  const alone = await begin({ isOpen: false, queue: { bytes: 1000 } });
  alone.session.notify("larger than the queue", "x".repeat(5000));
  assert.throws(() => alone.session.notify("small"), QueueFull);
});

test("while the socket holds too much, messages wait in the queue", async () => {
  const { session, socket } = await begin();
  socket.bufferedAmount = 2 ** 18;
  session.notify("one");
  session.notify("two");
  await clock.advance(100);
  assert.equal(socket.sent.length, 0);
  socket.bufferedAmount = 0;
  await clock.advance(10);
  assert.deepEqual(socket.take().map(({ method }) => method), ["one", "two"]);
});

test("messages that nobody understands are answered, and too many of them end the session", async () => {
  const { session, socket, errors } = await begin({ maxMalformed: 2 });
  await socket.say("no JSON");
  assert.deepEqual(socket.takeOne(), { type: "error", code: "invalid", message: "no JSON" });
  await socket.say({ type: "hello" });
  assert.equal(socket.takeOne().code, "unknown-type");
  await socket.say({ type: "call", id: 7 });
  assert.equal(socket.take()[0].id, 7);
  assert.deepEqual(socket.closed, { code: 4507, reason: "not the protocol" });
  assert.equal(session.state, "closed");
  assert.deepEqual(errors, []);
});

test("an answer that cannot be understood fails its call", async () => {
  const { session, socket } = await begin();
  const rejection = assert.rejects(session.call("one"), { name: "Malformed" });
  await socket.say({ type: "error", id: 1, code: 404 });
  await rejection;
  assert.deepEqual(socket.take().map(({ type }) => type), ["call", "cancel", "error"]);
});

test("the server's complaint about a message is reported", async () => {
  const { socket, errors } = await begin();
  await socket.say({ type: "error", code: "invalid", message: "what?" });
  assert.match(errors[0].message, /what\?/);
});

test("both formats are understood, and the session's own is spoken", async () => {
  const { session, socket } = await begin({ format: "msgpack" });
  const call = session.call("echo", new Uint8Array([1, 2]));
  assert.ok(socket.sent[0] instanceof Uint8Array);
  assert.deepEqual(socket.takeOne().params, new Uint8Array([1, 2]));
  await socket.say({ type: "result", id: 1, value: "as text" });
  assert.equal(await call, "as text");
  const other = session.call("echo");
  await socket.say({ type: "result", id: 2, value: 9n ** 18n }, true);
  assert.equal(await other, 9n ** 18n);
});

// ---- Silence -----------------------------------------------------------------------------------------------

test("a silent link is asked, and given up if it stays silent", async () => {
  const { session, socket } = await begin({ heartbeat: { interval: 20_000, timeout: 10_000 } });
  await clock.advance(20_000);
  socket.takeOne({ type: "call", method: "ping" });
  await clock.advance(9_999);
  assert.equal(session.state, "open");
  await clock.advance(1);
  assert.equal(session.state, "waiting");
  assert.equal(socket.readyState, 2);
});

test("anything that is heard is an answer, and puts the question off", async () => {
  const { session, socket } = await begin({ heartbeat: { interval: 20_000, timeout: 10_000 } });
  await clock.advance(15_000);
  await socket.say({ type: "notify", method: "hello" });
  await clock.advance(19_999);
  assert.deepEqual(socket.take(), []);
  await clock.advance(1);
  const { id } = socket.takeOne({ method: "ping" });
  await socket.say({ type: "error", id, code: "unknown-method" });
  await clock.advance(15_000);
  assert.equal(session.state, "open");
});

test("a link that is busy sending is slow, not dead", async () => {
  const { session, socket } = await begin({ heartbeat: { interval: 20_000, timeout: 10_000 } });
  socket.bufferedAmount = 1e6;
  await clock.advance(20_000);
  socket.bufferedAmount = 5e5;
  await clock.advance(10_000);
  assert.equal(session.state, "open");
  await clock.advance(10_000);
  assert.equal(session.state, "waiting");
});

test("who cannot wait for the next attempt asks for one, not more often than the backoff begins", async () => {
  const { session, socket } = await begin({ heartbeat: { interval: 20_000, timeout: 10_000 } });
  session.retry(); // there is a connection: is it alive?
  socket.takeOne({ method: "ping" });
  await socket.end();
  await clock.advance(500);
  await latest().end(); // the next wait is 1 s
  const attempts = FakeSocket.made.length;
  session.retry();
  session.retry();
  await clock.advance(500);
  assert.equal(FakeSocket.made.length, attempts + 1);
  await session.close();
  session.retry();
  await clock.advance(1e6);
  assert.equal(FakeSocket.made.length, attempts + 1);
});

// ---- The page ----------------------------------------------------------------------------------------------

test("a page listens to the network and to being seen, and stops at the end", async () => {
  const page = new EventTarget();
  globalThis.addEventListener = page.addEventListener.bind(page);
  globalThis.removeEventListener = page.removeEventListener.bind(page);
  globalThis.document = Object.assign(new EventTarget(), { visibilityState: "hidden" });
  try {
    const { session, socket } = await begin({ heartbeat: { interval: 20_000, timeout: 10_000 } });
    page.dispatchEvent(new Event("offline"));
    socket.takeOne({ method: "ping" });
    await clock.advance(10_000);
    assert.equal(session.state, "waiting");
    await clock.advance(500);
    await latest().end();
    await clock.advance(500);
    await latest().end(); // the next wait is 2 s
    const attempts = FakeSocket.made.length;
    document.dispatchEvent(new Event("visibilitychange"));
    await clock.advance(400);
    assert.equal(FakeSocket.made.length, attempts, "a page that is hidden has no hurry");
    document.visibilityState = "visible";
    document.dispatchEvent(new Event("visibilitychange"));
    await clock.advance(100);
    assert.equal(FakeSocket.made.length, attempts + 1);
    await latest().end();
    page.dispatchEvent(new Event("online"));
    await clock.advance(500);
    assert.equal(FakeSocket.made.length, attempts + 2);
    await session.close();
    page.dispatchEvent(new Event("online"));
    await clock.advance(1e6);
    assert.equal(FakeSocket.made.length, attempts + 2);
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
    delete globalThis.document;
  }
});

test("what is put into the queue of a socket that is closing waits for the next one", async () => {
  const { session, socket } = await begin();
  socket.readyState = 2;
  session.notify("one");
  const next = await again(clock, 1001);
  assert.equal(next.takeOne().method, "one");
  assert.deepEqual(socket.sent, []);
});

test("no question is asked before the first message", async () => {
  let introduce;
  const first = () => new Promise((done) => (introduce = done));
  const { session, socket } = await begin({ first, connectTimeout: 60_000, heartbeat: { interval: 1000, timeout: 1000 } });
  session.retry();
  await clock.advance(10_000);
  assert.deepEqual(socket.sent, []);
  introduce("token");
  await settle();
  assert.deepEqual(socket.sent.splice(0), ["token"]);
  await clock.advance(1000);
  socket.takeOne({ method: "ping" });
  session.close();
});

test("JSON that is nested more deeply than the engine follows is malformed", async () => {
  const { session, socket } = await begin();
  const { parse } = JSON;
  JSON.parse = () => {
    throw new RangeError("Maximum call stack size exceeded"); // others than V8 do
  };
  await socket.say("[[[");
  JSON.parse = parse;
  socket.takeOne({ type: "error", code: "invalid" });
  session.close();
});

test("a server that speaks at once is answered, behind the first message", async () => {
  const { socket } = await begin({ isOpen: false });
  socket.readyState = 1;
  socket.onopen();
  socket.onmessage({ data: '{"type":"call","id":1,"method":"ping"}' });
  assert.deepEqual(socket.takeOne(), { type: "result", id: 1 });
  let release;
  const other = await begin({ isOpen: false, first: () => new Promise((done) => (release = done)) });
  await other.socket.open();
  await other.socket.say({ type: "call", id: 1, method: "ping" });
  await clock.advance(50);
  assert.deepEqual(other.socket.sent, []);
  release("a token");
  await clock.advance(50);
  assert.deepEqual(other.socket.sent, ["a token", '{"type":"result","id":1}']);
});

test("a first message that cannot be had is a failed attempt", async () => {
  const { session, socket, errors } = await begin({ first: () => Promise.reject(new Error("no token")) });
  assert.deepEqual(socket.closed, { code: 4000, reason: "no first message" });
  assert.equal(session.state, "waiting");
  assert.equal(errors[0].message, "no token");
});

test("a value that is larger than the server takes is refused here", async () => {
  for (const format of ["json", "msgpack"]) {
    const { session, socket } = await begin({ format, maxMessage: 1512 });
    await assert.rejects(session.call("one", "x".repeat(1001)), TooLarge);
    assert.throws(() => session.notify("one", "é".repeat(501)), TooLarge);
    session.notify("one", "é".repeat(400));
    session.methods.set("large", () => "x".repeat(1001));
    await socket.say({ type: "call", id: 1, method: "large" });
    assert.equal(socket.take().at(-1).code, "internal");
  }
});

test("an option that is undefined has its default", async () => {
  const { session, socket } = await begin({ callTimeout: undefined, maxCalls: undefined });
  session.call("one", null, { timeout: undefined }).catch(() => {});
  assert.equal(socket.takeOne().timeout, 30);
  session.close();
});

test("options that do not exist, or make no sense, are refused", () => {
  const options = { WebSocket: FakeSocket };
  assert.throws(() => new Session("ws://test/", { ...options, retries: 3 }), /retries/);
  assert.throws(() => new Session("ws://test/", { ...options, format: "xml" }), RangeError);
  assert.throws(() => new Session("ws://test/", { ...options, queue: { overflow: "never" } }), RangeError);
  assert.throws(() => new Session("ws://test/", { ...options, queue: { items: 0 } }), RangeError);
  assert.throws(() => new Session("ws://test/", { ...options, backoff: { factor: 0.5 } }), RangeError);
});
