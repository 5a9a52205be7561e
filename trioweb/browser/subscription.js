// One topic that is listened to, over as many connections as it takes: each event once, in order.
//
// `#position` is how far the feed goes without a hole. What comes behind a hole, or finds the feed full, is left at
// the server; once there is room it is fetched from the topic's history. Only what the history no longer has is a gap.

import { Backoff } from "./backoff.js";
import { CallError, CallLost, SessionClosed, Unsubscribed } from "./errors.js";
import { Feed } from "./feed.js";

// Refusals that another attempt may not meet.
const PASSING = new Set(["busy", "cancelled", "internal", "rate-limited", "timeout"]);
// Why a server ends a subscription for good. After all else we ask again: the topic may have begun anew.
const FINAL = new Set(["forbidden", "unauthorized"]);
const GAP_SIZE = 100;
// ms until a history is asked again that has not yet what came live.
const LAG = 100;

export class Subscription extends EventTarget {
  #host; // {call(method, params, link, onValue(answer, size)), left(subscription), report(error)}
  #feed;
  #recover;
  #position;
  #link = null; // on which the server has answered our `subscribe`
  #isBehind = false;
  #newest = 0; // the largest offset that the server has spoken of
  #isFetching = false;
  #turn = null; // changes with each subscribe, so that answers to what was asked before it are none
  #retries = new Backoff({ reset: 0 });
  #timer = null;
  #ready;
  asked = null; // settles when the server has answered the last subscribe

  // `options` are {position, recover: "all" or "latest", buffer: {items, bytes}, onEvent(event)}.
  constructor(host, topic, { position = null, recover = "all", buffer, onEvent } = {}) {
    super();
    if (recover !== "all" && recover !== "latest") throw new RangeError('recover: "all" or "latest"');
    this.#host = host;
    this.#feed = new Feed(buffer);
    this.#recover = recover;
    this.#position = position && { epoch: position.epoch, offset: position.offset };
    this.topic = topic;
    this.position = this.#position; // behind the last event that was taken
    this.recovered = null; // the last answer's
    this.missed = 0; // events that are known to be lost
    this.ready = new Promise((resolve, reject) => (this.#ready = { resolve, reject }));
    this.ready.catch(() => {});
    if (onEvent) void this.#pump(onEvent);
  }

  get isOver() {
    return this.#feed.isOver;
  }

  // ---- The reader's side ----

  [Symbol.asyncIterator]() {
    return this;
  }

  async next() {
    const value = await this.#feed.next();
    if (value === undefined) return { done: true, value: undefined };
    if (value.position) this.position = value.position;
    this.#catchUp();
    return { done: false, value };
  }

  // Leaving the loop ends the subscription.
  async return(value) {
    this.unsubscribe();
    return { done: true, value };
  }

  // End it: nothing more comes. Resolves when the server knows, or is gone.
  unsubscribe() {
    if (this.isOver) return Promise.resolve();
    this.end();
    return this.#host.left(this);
  }

  async #pump(onEvent) {
    try {
      for await (const event of this) {
        try {
          await onEvent(event);
        } catch (error) {
          this.#host.report(error);
        }
      }
    } catch {
      // The "end" event has said why.
    }
  }

  // ---- The session's side ----

  // A connection is there: subscribe on it.
  async open(link) {
    this.#isBehind = this.#isFetching = false;
    this.#turn = Symbol("turn");
    clearTimeout(this.#timer);
    const params = { topic: this.topic };
    if (this.#position) params.position = this.#position;
    if (this.#recover === "latest") params.recover = "latest";
    else if (this.#position) params.limit = Math.max(this.#feed.room, 1);
    try {
      // Not behind the promise: the first event may come in the same breath as the answer.
      const call = this.#host.call("subscribe", params, link, (answer, size) => {
        if (this.isOver) return;
        const checked = sensible(answer);
        this.#link = link;
        this.#retries.ended(0);
        this.#answered(checked, size);
      });
      this.asked = call.catch(() => {});
      await call;
    } catch (error) {
      this.#refused(link, error);
    }
  }

  shut() {
    this.#link = null;
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  end(error = null) {
    if (this.isOver) return;
    this.shut();
    this.#feed.end(error);
    if (error) this.#ready.reject(error);
    else this.#ready.reject(new Unsubscribed(this.topic, "unsubscribed", "unsubscribed before it began"));
    this.#tell("end", { error });
  }

  // The server has ended it.
  ended({ code, message }) {
    const link = this.#link;
    if (!link) return;
    this.#link = null;
    if (FINAL.has(code)) this.end(new Unsubscribed(this.topic, code, message));
    else void this.open(link);
  }

  event(offset, data, size) {
    if (!this.#link) return;
    if (offset === 0 || !this.#position) return this.#unnumbered(data, size);
    if (offset <= this.#position.offset) return;
    this.#newest = Math.max(this.#newest, offset);
    if (this.#recover === "latest") this.#numbered(offset, data, size);
    else if (this.#isBehind) return;
    else if (offset === this.#position.offset + 1 && this.#feed.room > 0) this.#numbered(offset, data, size);
    else this.#fallBehind();
  }

  gap({ missed }) {
    if (!this.#link) return;
    if (this.#position) this.#fallBehind();
    else if (this.#recover === "all") this.#lose(isCount(missed) ? missed : null);
  }

  presence(kind, { user, info = null }) {
    this.#tell(kind, { topic: this.topic, user, info });
  }

  // ---- What a server's answer means ----

  #answered({ position, recovered, events }, size) {
    const before = this.#position;
    this.recovered = recovered;
    this.#newest = position?.offset ?? 0;
    if (position && this.#recover === "latest") {
      this.#position = position;
      for (const { offset, data } of events) this.#numbered(offset, data, size);
    } else if (!before || !position) {
      this.#position = position;
      if (before) this.#lose(null);
    } else if (recovered && events.length <= this.#feed.room) {
      this.#take(events, size);
    } else if (before.epoch === position.epoch && before.offset < position.offset) {
      this.#fallBehind(); // too much for one answer; the history may still have it
    } else {
      this.#position = position;
      this.#lose(null);
    }
    if (events.length === 0) this.position ??= this.#position;
    this.#ready.resolve();
    this.#tell("subscribed", { topic: this.topic, recovered, position });
  }

  #refused(link, error) {
    if (this.isOver || error instanceof CallLost || error instanceof SessionClosed) return;
    const isPassing = error instanceof CallError && PASSING.has(error.code);
    if (!isPassing) {
      const code = error instanceof CallError ? error.code : "invalid";
      this.end(new Unsubscribed(this.topic, code, error.message));
    } else if (link.isOpen) {
      this.#timer = setTimeout(() => void this.open(link), this.#retries.next());
    }
  }

  // ---- Events ----

  #unnumbered(data, size) {
    if (this.#recover === "latest") this.#feed.clear();
    if (this.#feed.room === 0) this.#lose(1);
    else this.#feed.push({ type: "event", topic: this.topic, data, position: null }, size);
  }

  #numbered(offset, data, size) {
    // Whoever wants the latest value alone does without those that it has overtaken.
    if (this.#recover === "latest") this.#feed.clear();
    this.#position = { epoch: this.#position.epoch, offset };
    this.#feed.push({ type: "event", topic: this.topic, data, position: this.#position }, size);
  }

  // Take the events of an answer that came in so many bytes, as far as there is room.
  #take(events, size) {
    const fitting = this.#recover === "latest" ? events : events.slice(0, this.#feed.room);
    for (const { offset, data } of fitting) {
      if (offset > this.#position.offset) this.#numbered(offset, data, size / events.length);
    }
  }

  // Say that events are lost, here in their order; `count` is null or 0 if nobody knows how many.
  #lose(count) {
    const missed = count || null;
    this.missed += missed ?? 0;
    const { last } = this.#feed;
    if (last?.type === "gap") {
      last.missed = last.missed === null || missed === null ? null : last.missed + missed;
      last.position = this.#position;
    } else {
      this.#feed.push({ type: "gap", topic: this.topic, missed, position: this.#position }, GAP_SIZE);
    }
    this.#tell("gap", { topic: this.topic, missed });
  }

  // ---- What was left at the server ----

  #fallBehind() {
    this.#isBehind = true;
    this.#catchUp();
  }

  async #catchUp() {
    if (!this.#isBehind || this.#isFetching || !this.#link || !this.#feed.isRoomy) return;
    const [link, turn] = [this.#link, this.#turn];
    const isOurs = () => this.#link === link && this.#turn === turn;
    this.#isFetching = true;
    const params = { topic: this.topic };
    if (this.#recover === "latest") params.limit = 1;
    else Object.assign(params, { position: this.#position, limit: this.#feed.room });
    try {
      await this.#host.call("history", params, link, (answer, size) => {
        if (!isOurs()) return;
        const checked = sensible(answer);
        this.#isFetching = false;
        this.#retries.ended(0);
        this.#fetched(checked, size);
      });
    } catch (error) {
      if (isOurs()) this.#unfetched(error);
    }
    this.#catchUp();
  }

  #fetched({ position, recovered, events }, size) {
    if (this.#recover === "latest") {
      this.#isBehind = false;
      return this.#take(events, size);
    }
    const before = this.#position;
    const isSameEpoch = position.epoch === before.epoch;
    if (!recovered || !isSameEpoch) {
      // Never a part without saying so: the gap comes first, then what there is behind it.
      const first = events[0]?.offset ?? position.offset + 1;
      const offset = isSameEpoch ? Math.max(first - 1, before.offset) : first - 1;
      if (!isSameEpoch) this.#newest = position.offset;
      this.#position = { epoch: position.epoch, offset };
      this.#lose(isSameEpoch ? offset - before.offset : null);
    }
    this.#take(events, size);
    this.#newest = Math.max(this.#newest, position.offset);
    if (this.#position === before && position.offset > before.offset) {
      this.#position = { epoch: before.epoch, offset: position.offset };
      this.#lose(position.offset - before.offset);
    }
    this.#isBehind = this.#position.offset < this.#newest;
    if (this.#isBehind && this.#position === before) this.#fetchAgain(LAG);
  }

  #fetchAgain(delay) {
    this.#isFetching = true;
    this.#timer = setTimeout(() => {
      this.#isFetching = false;
      this.#catchUp();
    }, delay);
  }

  #unfetched(error) {
    if (error instanceof CallError && PASSING.has(error.code)) return this.#fetchAgain(this.#retries.next());
    // It has a history, and does not let us have it.
    this.#isFetching = this.#isBehind = false;
    const missed = Math.max(this.#newest - this.#position.offset, 0);
    this.#position = { epoch: this.#position.epoch, offset: Math.max(this.#newest, this.#position.offset) };
    this.#lose(missed);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

const isCount = (value) => Number.isSafeInteger(value) && value >= 0;

// Return the answer of a `subscribe` or `history`, with all its fields. Throws CallError for one that says nothing.
function sensible(answer) {
  const isMap = answer !== null && typeof answer === "object";
  const { position = null, recovered = null, events = [] } = isMap ? answer : {};
  const isPosition = position === null || (typeof position.epoch === "string" && isCount(position.offset));
  if (!isMap || !isPosition || !Array.isArray(events) || !events.every((event) => isCount(event?.offset))) {
    throw new CallError("invalid", "the server's answer makes no sense");
  }
  return { position, recovered, events: events.map(({ offset, data = null }) => ({ offset, data })) };
}
