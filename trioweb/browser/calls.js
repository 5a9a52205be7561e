// The calls that we make. One that waits in the queue can be taken back unseen; one that has left is ended at the
// peer by a `cancel`. When the link breaks a call fails at once, unless it may be repeated: then it goes out again,
// with the same key, so that the peer runs it once.

import { CallError, CallTimeout, CallLost, Malformed, QueueFull } from "./errors.js";
import { Written, write } from "./wire.js";

// Bytes of a message beside its params, for the bound of the queue.
const OVERHEAD = 100;
// What setTimeout can hold, 24 days; a longer wait is the peer's to keep.
const LONGEST_TIMER = 2 ** 31 - 1;
// ms that a server has to go away in, which has cancelled a call that may be repeated.
const LEAVING = 500;

export class Calls {
  #format;
  #outbox;
  #most;
  #lastId = 0; // each connection counts from 1
  #link = null;
  #sent = new Map(); // id -> Call
  #all = new Set();

  constructor(format, outbox, most) {
    this.#format = format;
    this.#outbox = outbox;
    this.#most = most;
  }

  // Calls under way, those in the queue among them.
  get size() {
    return this.#all.size;
  }

  // Begin a call. `options` are {timeout (ms or null), signal, repeat, window, onItem(item), onValue(result, size),
  // link}; with `link` it is made on that connection, at once and past the queue. Throws what the value's format has to say, and QueueFull.
  start(method, params, { timeout = null, signal, repeat = false, window = 0, onItem, onValue, link } = {}) {
    signal?.throwIfAborted();
    if (timeout !== null && !(timeout > 0)) throw new RangeError("timeout: milliseconds above 0, or null");
    if (!link && this.#all.size >= this.#most) throw new QueueFull(`${this.#most} calls are under way`);
    const written = params === null || params === undefined ? null : new Written(this.#format, params);
    const call = new Call(this, { method, params: written, timeout, signal, repeat, window, onItem, onValue });
    this.#all.add(call);
    call.result.catch(() => {}); // whoever waits for it hears it nevertheless
    if (link) link.send(call.write());
    else {
      try {
        this.#outbox.post(call);
      } catch (error) {
        call.fail(error);
        throw error;
      }
    }
    return call;
  }

  // From now on calls leave by this connection.
  open(link) {
    this.#link = link;
    this.#lastId = 0;
  }

  // The connection is gone: fail what was under way, and keep what may be repeated.
  shut() {
    this.#link = null;
    const kept = [];
    for (const call of this.#sent.values()) {
      call.wait(0, null);
      if (call.repeats) kept.push(call);
      else call.fail(new CallLost());
    }
    this.#sent.clear();
    this.#outbox.putBack(kept);
  }

  end(error) {
    for (const call of [...this.#all]) call.fail(error);
  }

  // ---- What the peer says ----

  // Take a result, an item or an error of so many bytes. Throws Malformed for an item that nobody asked for.
  receive(message, size) {
    const call = this.#sent.get(message.id);
    if (!call) return; // we gave up while it was on its way
    call.received = size;
    if (message.type === "result") call.succeed(message.value);
    else if (message.type === "error") {
      if (message.code === "cancelled" && call.repeats) call.wait(LEAVING, () => this.#again(call));
      else call.fail(errorOf(message), true);
    }
    else if (!call.item(message.value)) throw new Malformed("an item too many", { fails: message.id });
  }

  // The server has cancelled a call, as one does that goes away, and is still there.
  #again(call) {
    this.#sent.delete(call.id);
    this.#outbox.putBack([call]);
    this.#outbox.flush();
  }

  // The peer's answer to a call could not be understood.
  fail(id, error) {
    this.#sent.get(id)?.fail(error);
  }

  // ---- What a call does ----

  register(call) {
    const id = ++this.#lastId;
    this.#sent.set(id, call);
    return id;
  }

  write(message) {
    return write(this.#format, message);
  }

  // A call is over; `isHeard` if the peer knows that.
  over(call, isHeard) {
    this.#all.delete(call);
    if (this.#outbox.remove(call)) return;
    const isOurs = this.#sent.get(call.id) === call;
    if (!isOurs) return;
    this.#sent.delete(call.id);
    if (!isHeard) this.tell({ type: "cancel", id: call.id });
  }

  // Tell the peer of the present connection about a call on it.
  tell(message) {
    if (this.#link) this.#outbox.answer(this.#link, OVERHEAD, () => this.write(message));
  }

  isSent(call) {
    return this.#sent.get(call.id) === call;
  }
}

// One call; as an entry of the outbox it is {size, write, lost}.
class Call {
  #calls;
  #message;
  #until;
  #timer = null;
  #pause = null;
  #signal;
  #onAbort;
  #onItem;
  #onValue;
  #resolve;
  #reject;
  #isOver = false;
  id = 0;
  received = 0; // bytes of the last message about it

  constructor(calls, { method, params, timeout, signal, repeat, window, onItem, onValue }) {
    this.#calls = calls;
    this.#message = { type: "call", method, params, window };
    this.repeats = repeat !== false;
    if (this.repeats) this.#message.key = typeof repeat === "string" ? repeat : randomKey();
    this.size = OVERHEAD + method.length + (params?.data.length ?? 0);
    this.#onItem = onItem;
    this.#onValue = onValue;
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#until = timeout === null ? null : performance.now() + timeout;
    if (timeout !== null && timeout <= LONGEST_TIMER) {
      this.#timer = setTimeout(() => this.fail(new CallTimeout()), timeout);
    }
    this.#signal = signal;
    this.#onAbort = () => this.fail(signal.reason);
    signal?.addEventListener("abort", this.#onAbort);
  }

  get isOver() {
    return this.#isOver;
  }

  write() {
    this.id = this.#calls.register(this);
    const message = { ...this.#message, id: this.id };
    // What is left now, and not what was when it was put into the queue.
    if (this.#until !== null) message.timeout = Math.max(this.#until - performance.now(), 0) / 1000;
    return this.#calls.write(message);
  }

  lost(error) {
    this.fail(error);
  }

  // Do something later, if it is not over by then; null: nothing.
  wait(delay, then) {
    clearTimeout(this.#pause);
    this.#pause = then && setTimeout(then, delay);
  }

  // Grant so many more items.
  more(count) {
    if (this.#calls.isSent(this)) this.#calls.tell({ type: "more", id: this.id, count });
  }

  // Take an item; false if there may be none.
  item(value) {
    return this.#onItem !== undefined && this.#onItem(value);
  }

  succeed(value) {
    if (!this.#finish(true)) return;
    try {
      this.#onValue?.(value, this.received);
      this.#resolve(value);
    } catch (error) {
      this.#reject(error);
    }
  }

  // What the peer has not answered itself makes it end what it runs.
  fail(error, isHeard = false) {
    if (this.#finish(isHeard)) this.#reject(error);
  }

  #finish(isHeard) {
    if (this.#isOver) return false;
    this.#isOver = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#pause);
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#calls.over(this, isHeard);
    return true;
  }
}

function errorOf({ code, message, path, data }) {
  if (code === "timeout") return new CallTimeout(message || undefined, { path, data });
  return new CallError(code, message, { path, data });
}

// Not crypto.randomUUID: pages that came without TLS have none.
function randomKey() {
  return [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(16).padStart(8, "0")).join("");
}
