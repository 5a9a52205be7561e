// Topics: each event once, in order, over reconnects, holes and slow readers, or a gap that says so.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Unsubscribed } from "../../../trioweb/browser/trioweb.js";
import { Clock, FakeSocket, again, begin, isPending, latest, settle } from "./kit.mjs";

let clock;
beforeEach(() => {
  clock = new Clock();
  FakeSocket.made = [];
});
afterEach(() => clock.restore());

const at = (offset, epoch = "e") => ({ epoch, offset });
const event = (offset, topic = "news") => ({ type: "event", topic, offset, data: `n${offset}` });
const inAnswer = (...offsets) => offsets.map((offset) => ({ offset, data: `n${offset}` }));

// A session with a subscription whose `subscribe` is answered.
async function listening(options = {}, answer = { position: at(10) }) {
  const { session, socket, errors } = await begin();
  const subscription = session.subscribe("news", options);
  const seen = [];
  for (const kind of ["subscribed", "gap", "join", "leave", "end"]) {
    subscription.addEventListener(kind, ({ detail }) => seen.push([kind, detail]));
  }
  await settle();
  const { id } = socket.takeOne({ type: "call", method: "subscribe" });
  await socket.say({ type: "result", id, value: answer });
  return { session, socket, subscription, seen, errors };
}

// Answer the only call that the session has made.
async function answer(method, value) {
  const call = latest().takeOne({ type: "call", method });
  await latest().say({ type: "result", id: call.id, value });
  return call.params;
}

// Take so many items, as texts.
async function take(subscription, count) {
  const taken = [];
  for (let n = 0; n < count; n++) {
    const { value } = await subscription.next();
    taken.push(value.type === "gap" ? `gap ${value.missed}` : value.data);
  }
  return taken;
}

test("events come in order, each with its position", async () => {
  const { session, socket, subscription } = await listening();
  await subscription.ready;
  assert.deepEqual(subscription.position, at(10));
  for (const offset of [11, 12, 12, 11, 13]) await socket.say(event(offset));
  assert.deepEqual((await subscription.next()).value, { type: "event", topic: "news", data: "n11", position: at(11) });
  assert.deepEqual(subscription.position, at(11), "what is not taken yet is not behind us");
  assert.deepEqual(await take(subscription, 2), ["n12", "n13"]);
  assert.equal(session.statistics().subscriptions, 1);
});

test("a topic without history", async () => {
  const { socket, subscription } = await listening({}, { position: null });
  await socket.say({ type: "event", topic: "news", data: 1 });
  await socket.say({ type: "notify", method: "gap", params: { topic: "news", missed: 2 } });
  await socket.say({ type: "event", topic: "news", data: 2 });
  assert.deepEqual(await take(subscription, 3), [1, "gap 2", 2]);
  assert.equal(subscription.missed, 2);
});

test("the first subscription may begin at a position", async () => {
  const { session, socket } = await begin();
  const subscription = session.subscribe("news", { position: at(3), buffer: { items: 50 } });
  await settle();
  const params = await answer("subscribe", { position: at(5), recovered: true, events: inAnswer(4, 5) });
  assert.deepEqual(params, { topic: "news", position: at(3), limit: 50 });
  assert.equal(subscription.recovered, true);
  await socket.say(event(6));
  assert.deepEqual(await take(subscription, 3), ["n4", "n5", "n6"]);
});

test("after a reconnect nothing is missing and nothing comes twice", async () => {
  const { session, socket, subscription, seen } = await listening();
  await socket.say(event(11));
  await again(clock);
  const params = await answer("subscribe", { position: at(13), recovered: true, events: inAnswer(12, 13) });
  assert.deepEqual(params.position, at(11), "what waits for the reader need not come again");
  await latest().say(event(13));
  await latest().say(event(14));
  assert.deepEqual(await take(subscription, 4), ["n11", "n12", "n13", "n14"]);
  assert.deepEqual(seen.map(([kind, { recovered }]) => [kind, recovered]), [["subscribed", null], ["subscribed", true]]);
  assert.equal(session.state, "open");
});

test("a subscription on a silent topic recovers too", async () => {
  const { subscription } = await listening();
  await again(clock);
  const params = await answer("subscribe", { position: at(11), recovered: true, events: inAnswer(11) });
  assert.deepEqual(params.position, at(10));
  assert.deepEqual(await take(subscription, 1), ["n11"]);
});

test("another epoch is a gap", async () => {
  const { subscription, seen } = await listening();
  await again(clock);
  await answer("subscribe", { position: at(3, "f"), recovered: false });
  await latest().say(event(4));
  assert.deepEqual(await take(subscription, 2), ["gap null", "n4"]);
  assert.deepEqual(subscription.position, at(4, "f"));
  assert.equal(subscription.recovered, false);
  assert.deepEqual(seen.map(([kind]) => kind), ["subscribed", "gap", "subscribed"]);
});

test("what is too much for one answer is fetched in pieces", async () => {
  const { socket, subscription, seen } = await listening({ buffer: { items: 4 } });
  await again(clock);
  await answer("subscribe", { position: at(16), recovered: false, events: [] });
  await latest().say(event(17));
  const first = await answer("history", { position: at(17), recovered: true, events: inAnswer(11, 12, 13, 14) });
  assert.deepEqual(first, { topic: "news", position: at(10), limit: 4 });
  assert.deepEqual(latest().take(), [], "the reader has enough for now");
  assert.deepEqual(await take(subscription, 2), ["n11", "n12"]);
  const second = await answer("history", { position: at(17), recovered: true, events: inAnswer(15, 16) });
  assert.deepEqual(second, { topic: "news", position: at(14), limit: 2 });
  assert.deepEqual(await take(subscription, 3), ["n13", "n14", "n15"]);
  await answer("history", { position: at(17), recovered: true, events: inAnswer(17) });
  await latest().say(event(18));
  assert.deepEqual(await take(subscription, 3), ["n16", "n17", "n18"]);
  assert.equal(subscription.missed, 0);
  assert.deepEqual(seen.map(([kind]) => kind), ["subscribed", "subscribed"]);
  assert.equal(socket.sent.length, 0);
});

test("what the history no longer has is a gap, in its place", async () => {
  const { subscription } = await listening();
  await again(clock);
  await answer("subscribe", { position: at(30), recovered: false, events: [] });
  await answer("history", { position: at(30), recovered: false, events: inAnswer(29, 30) });
  assert.deepEqual(await take(subscription, 3), ["gap 18", "n29", "n30"]);
  assert.equal(subscription.missed, 18);
});

test("a history that is lost in the midst of it begins anew", async () => {
  const { socket, subscription } = await listening();
  await socket.say(event(13));
  await answer("history", { position: at(2, "f"), recovered: false, events: [] });
  await socket.say(event(3));
  assert.deepEqual(await take(subscription, 2), ["gap null", "n3"]);
});

test("a hole is fetched before what comes behind it", async () => {
  const { socket, subscription } = await listening();
  await socket.say(event(11));
  await socket.say(event(14));
  await socket.say({ type: "notify", method: "gap", params: { topic: "news", missed: 2 } });
  await socket.say(event(15));
  await answer("history", { position: at(14), recovered: true, events: inAnswer(12, 13, 14) });
  await answer("history", { position: at(15), recovered: true, events: inAnswer(15) });
  assert.deepEqual(await take(subscription, 5), ["n11", "n12", "n13", "n14", "n15"]);
});

test("events that were dropped last of all are fetched too", async () => {
  const { socket, subscription } = await listening();
  await socket.say({ type: "notify", method: "gap", params: { topic: "news", missed: 2 } });
  await answer("history", { position: at(12), recovered: true, events: inAnswer(11, 12) });
  assert.deepEqual(await take(subscription, 2), ["n11", "n12"]);
  await socket.say({ type: "notify", method: "gap", params: { topic: "news", missed: 2 } });
  await answer("history", { position: at(12), recovered: true, events: [] });
  assert.equal(await isPending(subscription.next()), true, "they had been fetched already");
});

test("a history that does not answer is asked again, one that refuses is a gap", async () => {
  const { socket, subscription } = await listening();
  await socket.say(event(13));
  const { id } = socket.takeOne({ method: "history" });
  await socket.say({ type: "error", id, code: "busy" });
  await clock.advance(500);
  const again = socket.takeOne({ method: "history" });
  await socket.say({ type: "error", id: again.id, code: "forbidden" });
  await socket.say(event(14));
  assert.deepEqual(await take(subscription, 2), ["gap 3", "n14"]);
});

test("a slow reader's events are left at the server", async () => {
  const { socket, subscription } = await listening({ buffer: { items: 4 } });
  for (let offset = 11; offset <= 30; offset++) await socket.say(event(offset));
  assert.deepEqual(socket.take(), [], "nothing is fetched before there is room");
  const all = [];
  for (let n = 0; n < 20; n++) {
    all.push((await subscription.next()).value.data);
    await settle();
    for (const { id, method, params } of socket.take()) {
      assert.equal(method, "history");
      assert.ok(params.limit <= 4);
      const from = params.position.offset + 1;
      const offsets = Array.from({ length: Math.min(params.limit, 31 - from) }, (_, n) => from + n);
      await socket.say({ type: "result", id, value: { position: at(30), recovered: true, events: inAnswer(...offsets) } });
    }
  }
  assert.deepEqual(all, Array.from({ length: 20 }, (_, n) => `n${n + 11}`));
});

test("the buffer has a bound in bytes", async () => {
  const { socket, subscription } = await listening({ buffer: { bytes: 1000 } }, { position: null });
  for (let n = 0; n < 5; n++) await socket.say({ type: "event", topic: "news", data: "x".repeat(400) });
  assert.deepEqual((await take(subscription, 4)).map((text) => text.slice(0, 5)), ["xxxxx", "xxxxx", "xxxxx", "gap 2"]);
});

test("the latest value alone", async () => {
  const answered = { position: at(10), events: inAnswer(10) };
  const { socket, subscription } = await listening({ recover: "latest", buffer: { items: 2 } }, answered);
  assert.deepEqual(await take(subscription, 1), ["n10"]);
  for (const offset of [11, 12, 15]) await socket.say(event(offset));
  await again(clock);
  const params = await answer("subscribe", { position: at(20), recovered: false, events: inAnswer(20) });
  assert.deepEqual(params, { topic: "news", position: at(15), recover: "latest" });
  assert.deepEqual(await take(subscription, 1), ["n20"], "it has overtaken the others");
  await latest().say({ type: "notify", method: "gap", params: { topic: "news", missed: 2 } });
  assert.deepEqual(await answer("history", { position: at(22), recovered: true, events: inAnswer(22) }), { topic: "news", limit: 1 });
  await again(clock);
  await answer("subscribe", { position: at(1, "f"), recovered: false, events: inAnswer(1) });
  assert.deepEqual(await take(subscription, 1), ["n1"]);
  assert.equal(subscription.missed, 0);
});

test("a server that is busy is asked again, one that refuses is not", async () => {
  const { session, socket } = await begin();
  const subscription = session.subscribe("news");
  await settle();
  await socket.say({ type: "error", id: socket.takeOne().id, code: "rate-limited" });
  await clock.advance(500);
  const rejections = [
    assert.rejects(subscription.ready, Unsubscribed),
    assert.rejects(subscription.next(), { name: "Unsubscribed", code: "forbidden", topic: "news" }),
  ];
  await socket.say({ type: "error", id: socket.takeOne({ method: "subscribe" }).id, code: "forbidden" });
  await Promise.all(rejections);
  assert.equal(session.statistics().subscriptions, 0);
  await again(clock);
  assert.deepEqual(latest().take(), []);
});

test("the server may end a subscription", async () => {
  const { socket, subscription, seen } = await listening();
  await socket.say(event(11));
  await socket.say({ type: "notify", method: "unsubscribed", params: { topic: "news", code: "forbidden", message: "kicked" } });
  assert.deepEqual(await take(subscription, 1), ["n11"]);
  await assert.rejects(subscription.next(), /kicked/);
  assert.equal(seen.at(-1)[0], "end");
  assert.equal(seen.at(-1)[1].error.code, "forbidden");
});

test("a topic that begins anew is subscribed to anew", async () => {
  const { socket, subscription } = await listening();
  await socket.say({ type: "notify", method: "unsubscribed", params: { topic: "news", code: "epoch", message: "" } });
  const params = await answer("subscribe", { position: at(1, "f"), recovered: false });
  assert.deepEqual(params.position, at(10));
  await socket.say(event(2));
  assert.deepEqual(await take(subscription, 2), ["gap null", "n2"]);
});

test("a gap of which the server does not know how large it is", async () => {
  const { socket, subscription } = await listening({}, { position: null });
  await socket.say({ type: "notify", method: "gap", params: { topic: "news", missed: 0 } });
  assert.deepEqual(await take(subscription, 1), ["gap null"]);
});

test("leaving the loop unsubscribes, and who comes back waits for that", async () => {
  const { session, socket, subscription } = await listening();
  await socket.say(event(11));
  for await (const { data } of subscription) {
    assert.equal(data, "n11");
    break;
  }
  const left = socket.takeOne({ method: "unsubscribe", params: { topic: "news" } });
  const next = session.subscribe("news");
  await settle();
  assert.deepEqual(socket.take(), []);
  await socket.say(event(12));
  await socket.say({ type: "result", id: left.id });
  await answer("subscribe", { position: at(12) });
  await socket.say(event(13));
  assert.deepEqual(await take(next, 1), ["n13"]);
  assert.deepEqual(await subscription.next(), { done: true, value: undefined });
  assert.throws(() => session.subscribe("news"), RangeError);
});

test("a callback gets each event after the one before, and its failure ends nothing", async () => {
  const got = [];
  let release;
  const onEvent = async ({ data }) => {
    got.push(data);
    if (data === "n11") throw new Error("oops");
    if (data === "n12") await new Promise((done) => (release = done));
  };
  const { socket, errors } = await listening({ onEvent });
  for (const offset of [11, 12, 13]) await socket.say(event(offset));
  assert.deepEqual(got, ["n11", "n12"]);
  assert.deepEqual(errors.map(String), ["Error: oops"]);
  release();
  await settle();
  assert.deepEqual(got, ["n11", "n12", "n13"]);
});

test("presence, history and publications", async () => {
  const { session, socket, seen } = await listening();
  await socket.say({ type: "notify", method: "join", params: { topic: "news", user: "ada" } });
  await socket.say({ type: "notify", method: "leave", params: { topic: "news", user: "ada", info: { age: 36 } } });
  assert.deepEqual(seen.slice(1), [
    ["join", { topic: "news", user: "ada", info: null }],
    ["leave", { topic: "news", user: "ada", info: { age: 36 } }],
  ]);
  const users = session.presence("news");
  await answer("presence", { users: [{ user: "ada", connections: 2 }] });
  assert.deepEqual(await users, [{ user: "ada", info: null, connections: 2 }]);
  const history = session.history("news", { position: at(3), limit: 5 });
  const value = { position: at(10), recovered: true, events: inAnswer(4) };
  assert.deepEqual(await answer("history", value), { topic: "news", position: at(3), limit: 5 });
  assert.deepEqual(await history, value);
  const newest = session.history("news");
  assert.deepEqual(await answer("history", { position: at(0) }), { topic: "news", limit: 100 });
  assert.deepEqual(await newest, { position: at(0), recovered: null, events: [] });
  const position = session.publish("news", { text: "hi" }, { repeat: true });
  assert.deepEqual(await answer("publish", at(11)), { topic: "news", data: { text: "hi" } });
  assert.deepEqual(await position, at(11));
});

test("the buffer is bounded over many links, whatever the server says", async () => {
  const { session, socket, subscription } = await listening({ buffer: { items: 3 } });
  for (let offset = 11; offset <= 13; offset++) await socket.say(event(offset));
  for (let offset = 14; offset < 40; offset++) {
    await again(clock);
    await answer("subscribe", { position: at(offset), recovered: true, events: inAnswer(offset) });
  }
  assert.deepEqual(await take(subscription, 2), ["n11", "n12"]);
  const offsets = Array.from({ length: 26 }, (_, n) => n + 14);
  await answer("history", { position: at(39), recovered: true, events: inAnswer(...offsets) });
  assert.deepEqual(await take(subscription, 2), ["n13", "n14"]);
  await answer("history", { position: at(39), recovered: true, events: inAnswer(...offsets.slice(2)) });
  session.close();
  assert.deepEqual(await take(subscription, 3), ["n15", "n16", "n17"]);
});

test("the latest value comes from the history too, though another one fills the buffer", async () => {
  const { socket, subscription } = await listening({ recover: "latest", buffer: { items: 1 } });
  await socket.say(event(11));
  await socket.say({ type: "notify", method: "gap", params: { topic: "news", missed: 1 } });
  assert.deepEqual(socket.take(), [], "there is no room, and what is newest may yet come");
  await take(subscription, 1);
  await socket.say(event(12));
  assert.deepEqual(await answer("history", { position: at(13), recovered: null, events: inAnswer(13) }), {
    topic: "news",
    limit: 1,
  });
  assert.deepEqual(await take(subscription, 1), ["n13"]);
});

test("leaving waits for the answer to what it leaves", async () => {
  const { session, socket } = await begin();
  const subscription = session.subscribe("news");
  await settle();
  const { id } = socket.takeOne({ method: "subscribe" });
  const left = subscription.unsubscribe();
  await settle();
  assert.deepEqual(socket.take(), []);
  await socket.say({ type: "result", id, value: { position: at(10) } });
  await answer("unsubscribe", null);
  await left;
  session.close();
});

test("what joins and leaves no topic of ours is the application's", async () => {
  const { session, socket, seen } = await listening();
  const joined = [];
  session.methods.set("join", (params) => joined.push(params));
  await socket.say({ type: "notify", method: "join", params: { topic: "news", user: "ada" } });
  for (const params of [{ topic: "sports", user: "ada" }, { game: 7 }, null]) {
    await socket.say({ type: "notify", method: "join", params });
  }
  assert.deepEqual(joined, [{ topic: "sports", user: "ada" }, { game: 7 }, null]);
  assert.deepEqual(seen.slice(1), [["join", { topic: "news", user: "ada", info: null }]]);
  session.close();
});

test("a history that has not yet what came live is asked again, and is not taken for a loss", async () => {
  const { session, socket, subscription } = await listening();
  await socket.say(event(12));
  await answer("history", { position: at(10), recovered: true, events: [] });
  assert.deepEqual(socket.take(), []);
  await clock.advance(100);
  assert.deepEqual(await answer("history", { position: at(12), recovered: true, events: inAnswer(11, 12) }), {
    topic: "news",
    position: at(10),
    limit: 1024,
  });
  assert.deepEqual(await take(subscription, 2), ["n11", "n12"]);
  session.close();
  assert.equal(clock.timers, 0);
});

test("the answer to a question of an earlier subscription is none", async () => {
  const { session, socket, subscription } = await listening();
  await socket.say(event(12));
  const { id } = socket.takeOne({ method: "history" });
  await socket.say({ type: "notify", method: "unsubscribed", params: { topic: "news", code: "epoch", message: "" } });
  await answer("subscribe", { position: at(3, "f"), recovered: false, events: [] });
  await socket.say({ type: "result", id, value: { position: at(12), recovered: true, events: inAnswer(11, 12) } });
  await socket.say(event(4));
  assert.deepEqual(await take(subscription, 2), ["gap null", "n4"]);
  assert.deepEqual(subscription.position, at(4, "f"));
  assert.deepEqual(socket.take(), []);
  session.close();
});

test("answers and notifications without sense do not spoil what is kept", async () => {
  const nonsense = [
    { position: { epoch: "e", offset: "11" } },
    { position: { epoch: 1, offset: 11 } },
    { position: "here" },
    { position: at(11), events: {} },
    { position: at(11), events: [null] },
    { position: at(11), events: [{ offset: -1 }] },
  ];
  for (const value of nonsense) {
    const { session, subscription } = await listening({}, value);
    await assert.rejects(subscription.ready, (error) => error instanceof Unsubscribed && error.code === "invalid");
    session.close();
  }
  const { session, socket, subscription } = await listening({}, { position: null });
  const say = (missed) => socket.say({ type: "notify", method: "gap", params: { topic: "news", missed } });
  for (const missed of ["1", -5, 1.5, {}, undefined, 2]) await say(missed);
  assert.equal(subscription.missed, 2);
  session.close();
});

test("the first event may come in the same breath as the answer", async () => {
  const { session, socket } = await begin();
  const subscription = session.subscribe("news");
  await settle();
  const { id } = socket.takeOne();
  for (const message of [{ type: "result", id, value: { position: at(10) } }, event(11), event(13), event(14)]) {
    socket.onmessage({ data: JSON.stringify(message) });
  }
  const { id: history } = socket.takeOne({ method: "history" });
  const value = { position: at(13), recovered: true, events: inAnswer(12, 13) };
  for (const message of [{ type: "result", id: history, value }, event(14), event(15)]) {
    socket.onmessage({ data: JSON.stringify(message) });
  }
  await settle();
  await answer("history", { position: at(15), recovered: true, events: inAnswer(14, 15) });
  assert.deepEqual(await take(subscription, 5), ["n11", "n12", "n13", "n14", "n15"]);
});

test("a link that breaks before the answer to a subscription", async () => {
  const { session, socket } = await begin();
  const subscription = session.subscribe("news");
  await settle();
  await socket.end();
  assert.equal(await isPending(subscription.ready), true);
  const next = await again(clock);
  await answer("subscribe", { position: at(1) });
  await subscription.ready;
  await next.say(event(2));
  assert.deepEqual(await take(subscription, 1), ["n2"]);
  assert.equal(session.statistics().calls, 0);
});

test("a server that answers nonsense ends the subscription, and not the session", async () => {
  const { session, socket } = await begin();
  const subscription = session.subscribe("news");
  const rejection = assert.rejects(subscription.next(), Unsubscribed);
  await settle();
  await socket.say({ type: "result", id: 1 });
  await rejection;
  assert.equal(session.state, "open");
});
