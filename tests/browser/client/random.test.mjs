// Whatever breaks, a subscription has each event once and in order, or says that some are missing. A server in a few
// lines, and chance: links that break, events that are dropped for want of room, answers that hold only so much, a
// history that forgets or begins anew, a reader who sleeps. `TRIOWEB_SEED=7 node random.test.mjs` repeats one run.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Clock, FakeSocket, begin, latest, settle } from "./kit.mjs";

const SEEDS = process.env.TRIOWEB_SEED ? [Number(process.env.TRIOWEB_SEED)] : Array.from({ length: 25 }, (_, n) => n);
const ANSWER = 5; // events in one answer at most

let clock;
beforeEach(() => {
  clock = new Clock();
  FakeSocket.made = [];
});
afterEach(() => clock.restore());

// mulberry32, by Tommy Ettinger (public domain).
function chance(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

class Server {
  epoch = 1;
  newest = 0;
  socket = null;
  isSubscribed = false;
  unsent = [];
  network = []; // on its way to the client, in order
  dropped = 0;

  constructor(kept) {
    this.kept = kept;
  }

  get position() {
    return { epoch: `e${this.epoch}`, offset: this.newest };
  }

  after(offset, limit) {
    const events = [];
    for (let n = Math.max(offset, this.newest - this.kept) + 1; n <= this.newest && events.length < limit; n++) {
      events.push({ offset: n, data: `e${this.epoch}:${n}` });
    }
    return events;
  }

  // An event is in the history first, and is sent to who is subscribed by then a little later, or is dropped.
  publish() {
    const offset = ++this.newest;
    this.unsent.push({ type: "event", topic: "t", offset, data: `e${this.epoch}:${offset}` });
  }

  send(isDropped) {
    const event = this.unsent.shift();
    if (!event || !this.isSubscribed) return;
    if (isDropped) this.dropped++;
    else this.network.push(event);
  }

  tellGap() {
    if (this.dropped === 0 || !this.isSubscribed) return;
    this.network.push({ type: "notify", method: "gap", params: { topic: "t", missed: this.dropped } });
    this.dropped = 0;
  }

  beginAnew() {
    this.epoch++;
    this.newest = 0;
    this.tell("unsubscribed", { code: "epoch", message: "" });
    this.isSubscribed = false;
    this.dropped = 0;
    this.unsent = [];
  }

  tell(method, params) {
    if (this.isSubscribed) this.network.push({ type: "notify", method, params: { topic: "t", ...params } });
  }

  // Take what the client has sent.
  async serve() {
    if (this.socket !== latest()) {
      this.socket = latest();
      [this.isSubscribed, this.network, this.dropped] = [false, [], 0];
      if (this.socket.readyState === 0) await this.socket.open();
    }
    for (const { id, method, params } of this.socket.take()) {
      const { position = null, limit = ANSWER } = params;
      const value = { position: this.position };
      const isSame = position?.epoch === this.position.epoch;
      if (method === "subscribe") {
        if (position) {
          const events = isSame ? this.after(position.offset, Infinity) : [];
          const missing = this.newest - position.offset;
          value.recovered = isSame && events.length === missing && missing <= Math.min(limit, ANSWER);
          value.events = value.recovered ? events : [];
        }
        this.isSubscribed = true;
        this.dropped = 0;
      } else {
        value.events = this.after(isSame ? position.offset : 0, Math.min(limit, ANSWER));
        value.recovered = isSame && (value.events[0]?.offset ?? position.offset + 1) === position.offset + 1;
        if (value.events.length === 0 && isSame) value.recovered = this.newest === position.offset;
      }
      this.network.push({ type: "result", id, value });
    }
  }

  // Let so many messages arrive, each by itself or all in one breath.
  async deliver(count, isBurst = false) {
    const { socket } = this;
    while (count-- > 0 && this.network.length > 0 && socket === latest()) {
      socket.onmessage?.({ data: JSON.stringify(this.network.shift()) });
      if (!isBurst) await settle();
    }
    await settle();
  }
}

async function live(seed, { kept = Infinity, isStable = true }) {
  const random = chance(seed);
  const likely = (share) => random() < share;
  const server = new Server(kept);
  const { session } = await begin({ isOpen: false, backoff: { base: 50, cap: 50 } });
  const items = 2 + Math.floor(random() * 12);
  const subscription = session.subscribe("t", { position: { epoch: "e1", offset: 0 }, buffer: { items } });
  const taken = [];
  let waiting = null;
  const read = () => {
    waiting ??= subscription.next().then(({ done, value }) => {
      if (!done) taken.push(value);
      waiting = null;
    });
  };
  for (let step = 0; step < 120; step++) {
    if (likely(0.6)) for (let n = random() * 6; n > 0; n--) server.publish();
    for (let n = random() * 6; n > 0; n--) server.send(likely(0.1));
    if (likely(0.3)) server.tellGap();
    if (likely(0.8)) await server.serve();
    await server.deliver(Math.floor(random() * 6), likely(0.5));
    if (likely(0.6)) for (let n = random() * 8; n > 0; n--, await settle()) read();
    if (likely(0.05)) await latest().end(1006);
    if (!isStable && likely(0.03)) server.beginAnew();
    if (likely(0.3)) await clock.advance(60);
  }
  // Now all goes well.
  for (let quiet = 0; quiet < 5; ) {
    const before = taken.length;
    await clock.advance(60);
    while (server.unsent.length > 0) server.send(false);
    server.tellGap();
    await server.serve();
    await server.deliver(Infinity);
    read();
    await settle();
    quiet = taken.length === before ? quiet + 1 : 0;
  }
  await session.close();
  return { server, taken };
}

const number = ({ epoch }) => Number(epoch.slice(1));

function checkOrder(taken, seed) {
  let last = { epoch: "e1", offset: 0 };
  let isGap = false;
  for (const item of taken) {
    if (item.type === "gap") isGap = true;
    else {
      const { position, data } = item;
      assert.equal(data, `${position.epoch}:${position.offset}`, `seed ${seed}`);
      const follows = position.epoch === last.epoch && position.offset === last.offset + 1;
      const isNewer = position.epoch === last.epoch ? position.offset > last.offset : number(position) > number(last);
      assert.ok(follows || (isGap && isNewer), `seed ${seed}: ${JSON.stringify(position)} after ${JSON.stringify(last)}`);
      [last, isGap] = [position, false];
    }
  }
  return { last, isGap };
}

test("with a history that has it all nothing is missing", async () => {
  for (const seed of SEEDS) {
    FakeSocket.made = [];
    const { server, taken } = await live(seed, {});
    checkOrder(taken, seed);
    assert.deepEqual(taken.map(({ type }) => type).filter((type) => type === "gap"), [], `seed ${seed}`);
    assert.equal(taken.length, server.newest, `seed ${seed}`);
    assert.ok(server.newest > 50);
  }
});

test("with one that forgets, and begins anew, what is missing is said", async () => {
  let gaps = 0;
  for (const seed of SEEDS) {
    FakeSocket.made = [];
    const { server, taken } = await live(seed, { kept: 12, isStable: seed % 3 === 0 });
    const { last, isGap } = checkOrder(taken, seed);
    // The end is there, or is a gap: nothing is left out in silence.
    const isWhole = last.epoch === server.position.epoch && last.offset === server.newest;
    assert.ok(isWhole || isGap || server.newest === 0, `seed ${seed}: ended at ${JSON.stringify(last)}`);
    gaps += taken.filter(({ type }) => type === "gap").length;
  }
  assert.ok(gaps > SEEDS.length / 4, "the test has no gaps to speak of");
});
