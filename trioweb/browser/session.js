// A session: calls, topics and notifications over one connection after the other.

import { Answers } from "./answers.js";
import { Backoff } from "./backoff.js";
import { Calls } from "./calls.js";
import { Malformed, SessionClosed, TriowebError } from "./errors.js";
import { Link } from "./link.js";
import { Outbox } from "./outbox.js";
import { stream } from "./streams.js";
import { Topics } from "./topics.js";
import { FORMATS, Written, read, write } from "./wire.js";

const DEFAULTS = {
  format: "json",
  protocols: undefined, // subprotocols to offer
  first: null, // returns (a promise of) a message to send before all others: a token
  backoff: {}, // see backoff.js
  connectTimeout: 10_000, // ms until there must be a URL, then an open connection, then its first message
  heartbeat: { interval: 20_000, timeout: 10_000 }, // ms of silence before we ask, and after; null: none
  queue: {}, // {items: 1024, bytes: 2**20, overflow: "fail"}; see outbox.js
  callTimeout: 30_000, // ms; the time of a call that names none. null: none
  maxCalls: 1024, // of ours under way, those in the queue among them
  maxAnswers: 64, // of the server's at once; `busy` above it
  maxMessage: 2 ** 20, // bytes: a server closes for good (1009) who sends more than it takes
  maxMalformed: 16, // messages that cannot be understood, on one connection
  onError: (error) => (globalThis.reportError ?? console.error)(error), // what a method or a callback throws
  WebSocket: undefined, // the class to use; globalThis.WebSocket unless told
};

// Bytes of a message beside its value, at most: a key, a method's name.
const ENVELOPE = 512;
// Bytes of a notification beside its params, for the bound of the queue.
const OVERHEAD = 100;
// What a page's script may close with in place of 1007.
const NOT_UNDERSTOOD = 4507;

// Whether a session does not come back after this code (wire.md, "Closing").
export function isTerminal(code) {
  if ([1002, 1003, 1007, 1008, 1009, 1010].includes(code)) return true;
  return (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);
}

export class Session extends EventTarget {
  #url;
  #options;
  #format;
  #backoff;
  #outbox;
  #calls;
  #answers;
  #topics;
  #link = null;
  #timer = null;
  #patience = null;
  #triedAt = 0;
  #malformed = 0;
  #counts = { connections: 0, received: 0, malformed: 0 };
  #state = "connecting";
  #close = null; // how the last connection ended
  #onEnd;
  #hurry = () => this.retry();
  #doubt = () => this.#link?.probe();
  #show = () => document.visibilityState === "visible" && this.retry();

  // `url` is a text or a URL, or a function that returns (a promise of) one for each attempt, for tokens that
  // grow old. A path is one of the page's own server.
  constructor(url, options = {}) {
    super();
    this.#url = url;
    this.#options = withDefaults(options);
    const { format, maxMessage, maxCalls, maxAnswers, callTimeout, onError } = this.#options;
    if (!Object.hasOwn(FORMATS, format)) throw new RangeError('format: "json" or "msgpack"');
    this.methods = new Map(); // name -> what the server may call
    this.#format = { ...FORMATS[format], most: maxMessage - ENVELOPE };
    this.#backoff = new Backoff(this.#options.backoff);
    this.#outbox = new Outbox(this.#options.queue);
    this.#calls = new Calls(this.#format, this.#outbox, maxCalls);
    this.#answers = new Answers(this.#format, this.#outbox, this.methods, maxAnswers, onError);
    this.#topics = new Topics(this.#calls, callTimeout, onError);
    this.closed = new Promise((resolve) => (this.#onEnd = resolve));
    // Nothing to listen to outside of a page.
    globalThis.addEventListener?.("online", this.#hurry);
    globalThis.addEventListener?.("offline", this.#doubt);
    globalThis.document?.addEventListener("visibilitychange", this.#show);
    void this.#connect();
  }

  // "connecting", "open", "waiting" (for the next attempt) or "closed" (for good).
  get state() {
    return this.#state;
  }

  // ---- Calls ----

  // Call a method of the server's. `options` are {timeout: ms or null, signal, repeat}: with `repeat` the call goes
  // out again if the connection breaks, and is run once.
  async call(method, params = null, options = {}) {
    return this.#start(method, params, options).result;
  }

  // Call a method that streams, once the iteration begins. `options` are {window, timeout, signal}.
  stream(method, params = null, options = {}) {
    return stream((more) => this.#start(method, params, more), { ...options, timeout: options.timeout ?? null });
  }

  // Call a method without an answer. Throws QueueFull where the policy is to fail.
  notify(method, params = null) {
    this.#throwIfClosed();
    const written = params === null ? null : new Written(this.#format, params);
    this.#outbox.post({
      size: OVERHEAD + method.length + (written?.data.length ?? 0),
      write: () => write(this.#format, { type: "notify", method, params: written }),
      lost: () => {},
    });
  }

  #start(method, params, options) {
    this.#throwIfClosed();
    const { timeout = this.#options.callTimeout } = options;
    return this.#calls.start(method, params, { ...options, timeout });
  }

  // ---- Topics ----

  // Listen to a topic, from now on or from a position on. See subscription.js.
  subscribe(topic, options = {}) {
    this.#throwIfClosed();
    return this.#topics.subscribe(topic, options);
  }

  // Returns the position of what was published, or null where the topic keeps no history.
  publish(topic, data, options) {
    return this.call("publish", { topic, data }, options);
  }

  // Returns {position, recovered, events}: the newest events, or the oldest after a position.
  async history(topic, { position, limit = 100, ...options } = {}) {
    const params = position ? { topic, position, limit } : { topic, limit };
    return { recovered: null, events: [], ...(await this.call("history", params, options)) };
  }

  // Returns who is there: a list of {user, info, connections}.
  async presence(topic, options) {
    const { users } = await this.call("presence", { topic }, options);
    return users.map(({ user, info = null, connections }) => ({ user, info, connections }));
  }

  // ---- The end ----

  // Find out now whether the server can be reached: the user asks for it, the network is back, or the page is seen
  // again. It does not try more often than the backoff begins.
  retry() {
    this.#link?.probe();
    if (this.#state !== "waiting") return;
    clearTimeout(this.#timer);
    const rest = this.#triedAt + this.#backoff.base - performance.now();
    this.#timer = setTimeout(() => void this.#connect(), Math.max(rest, 0));
  }

  // End the session for good. What waits in the queue is lost, and what waits for an answer rejects. Resolves to
  // {code, reason}, as `closed` does.
  close(code = 1000, reason = "") {
    if (code !== 1000 && !(Number.isInteger(code) && code >= 3000 && code < 5000)) throw new RangeError("code: 1000, or from 3000 to 4999");
    if (new TextEncoder().encode(reason).length > 123) throw new RangeError("reason: at most 123 bytes");
    const link = this.#link;
    this.#finish({ code, reason }, "the session was closed");
    link?.close(code, reason);
    return this.closed;
  }

  // A snapshot of what there is.
  statistics() {
    return {
      state: this.#state,
      failures: this.#backoff.failures,
      connections: this.#counts.connections,
      received: this.#counts.received,
      malformed: this.#counts.malformed,
      dropped: this.#outbox.dropped,
      queuedItems: this.#outbox.items,
      queuedBytes: this.#outbox.bytes,
      calls: this.#calls.size,
      answers: this.#answers.size,
      droppedNotifications: this.#answers.dropped,
      subscriptions: this.#topics.size,
    };
  }

  #throwIfClosed() {
    if (this.#state === "closed") throw new SessionClosed("the session is closed", this.#close);
  }

  #finish(close, why) {
    if (this.#state === "closed") return;
    clearTimeout(this.#timer);
    clearTimeout(this.#patience);
    globalThis.removeEventListener?.("online", this.#hurry);
    globalThis.removeEventListener?.("offline", this.#doubt);
    globalThis.document?.removeEventListener("visibilitychange", this.#show);
    this.#close = close;
    const error = new SessionClosed(`${why}: ${close.code} ${close.reason}`.trim(), close);
    this.#link = null;
    this.#state = "closed";
    this.#topics.shut();
    this.#answers.end();
    this.#calls.end(error);
    this.#outbox.end(error);
    this.#topics.end(why === "the session was closed" ? null : error);
    this.#onEnd(close);
    this.#tell({ state: "closed", close });
  }

  // ---- One connection after the other ----

  async #connect() {
    this.#triedAt = performance.now();
    this.#enter("connecting");
    let ws;
    try {
      const url = typeof this.#url === "function" ? await this.#inTime(this.#url()) : this.#url;
      if (this.#state !== "connecting") return;
      const { WebSocket = globalThis.WebSocket, protocols } = this.#options;
      ws = new WebSocket(absolute(url), protocols ?? []);
    } catch (error) {
      this.#options.onError(error);
      return this.#ended({ code: 1006, reason: "no connection could be begun", openFor: 0 });
    }
    const { connectTimeout, heartbeat } = this.#options;
    const link = new Link(ws, {
      connectTimeout,
      heartbeat,
      onOpen: () => this.#opened(link),
      onMessage: (data) => this.#receive(data),
      onProbe: () => this.#calls.start("ping", null, { link, timeout: heartbeat.timeout }),
      onEnd: (close) => link === this.#link && this.#ended(close),
    });
    this.#link = link;
  }

  #opened(link) {
    this.#malformed = 0;
    this.#counts.connections++;
    this.#calls.open(link);
    this.#answers.open(link);
    this.#outbox.open(link);
    if (this.#options.first) void this.#introduce(link);
    else this.#begin(link);
  }

  async #introduce(link) {
    try {
      const first = await this.#inTime(this.#options.first());
      if (!link.isOpen) return;
      if (first !== undefined && first !== null) link.send(first);
    } catch (error) {
      if (link.isOpen) this.#options.onError(error);
      return link.close(4000, "no first message");
    }
    this.#begin(link);
  }

  // What the page asks for may never come: a request has no time of its own.
  async #inTime(promise) {
    const { connectTimeout } = this.#options;
    let timer;
    const late = new Promise((_, reject) => {
      const error = new TriowebError(`nothing to connect with after ${connectTimeout} ms`);
      this.#patience = timer = setTimeout(() => reject(error), connectTimeout);
    });
    try {
      return await Promise.race([promise, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #begin(link) {
    link.ready();
    // Before all that waits in the queue: an answer may be about what is published on a topic.
    this.#topics.open(link);
    this.#outbox.flush();
    this.#enter("open");
  }

  #ended({ code, reason, openFor }) {
    clearTimeout(this.#patience);
    this.#link = null;
    this.#close = { code, reason };
    this.#backoff.ended(openFor);
    // The outbox last: calls that may be repeated go back into it.
    this.#topics.shut();
    this.#answers.shut();
    this.#outbox.shut();
    this.#calls.shut();
    if (isTerminal(code)) return this.#finish(this.#close, "the connection was closed for good");
    const delay = this.#backoff.next();
    if (delay === null) return this.#finish(this.#close, "too many attempts have failed");
    // Before it is told: who hears of it may close the session.
    this.#timer = setTimeout(() => void this.#connect(), delay);
    this.#enter("waiting", { close: this.#close, delay });
  }

  #enter(state, detail = {}) {
    this.#state = state;
    this.#tell({ state, ...detail });
  }

  #tell(detail) {
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }

  // ---- What comes in ----

  #receive(data) {
    this.#counts.received++;
    try {
      this.#take(read(data), data.length ?? data.byteLength);
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      this.#misunderstood(error);
    }
  }

  #take(message, size) {
    switch (message.type) {
      case "result":
      case "item": return this.#calls.receive(message, size);
      case "error": return message.id === null ? this.#blamed(message) : this.#calls.receive(message, size);
      case "event": return this.#topics.event(message, size);
      case "call": return this.#answers.call(message);
      case "cancel": return this.#answers.cancel(message.id);
      case "more": return this.#answers.more(message.id, message.count);
      case "notify": return this.#topics.notify(message) || this.#answers.notify(message);
    }
  }

  #misunderstood(error) {
    this.#counts.malformed++;
    if (error.fails !== null) this.#calls.fail(error.fails, error);
    const link = this.#link;
    const text = write(this.#format, error.answer);
    this.#outbox.answer(link, text.length, () => text);
    if (++this.#malformed > this.#options.maxMalformed) link.close(NOT_UNDERSTOOD, "not the protocol");
  }

  // The server could not understand a message of ours.
  #blamed({ code, message, path }) {
    this.#options.onError(new Malformed(`the server could not understand: ${message}`, { code, path }));
  }
}

function withDefaults(options) {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const unknown = given.map(([name]) => name).filter((name) => !Object.hasOwn(DEFAULTS, name));
  if (unknown.length > 0) throw new TypeError(`unknown options: ${unknown.join(", ")}`);
  return { ...DEFAULTS, ...Object.fromEntries(given) };
}

// A path leads to the server of the page. Browsers learned to do this themselves in 2024.
function absolute(url) {
  const found = new URL(url, globalThis.location?.href);
  found.protocol = found.protocol.replace(/^http/, "ws");
  return found.href;
}
