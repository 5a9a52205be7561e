// The calls that the server makes: each runs a method of the session's, and is answered with what that returns, with
// its items, or with what it throws.

import { CallError, CallTimeout, Malformed } from "./errors.js";
import { Written, write } from "./wire.js";

// Calls with a key that are remembered, so that the same call again is not run twice. The oldest result goes first.
const KEPT = 256;
const OVERHEAD = 100;

export class Answers {
  #format;
  #outbox;
  #methods;
  #most;
  #report;
  #link = null;
  #running = new Map(); // id -> Answer, of the present connection
  #kept = new Map(); // method and key -> {answer, waiting, isOver, isGivenUp, outcome, heard}
  #notified = 0; // methods of notifications that run
  #working = 0; // methods that run, whether anybody waits for them or not
  dropped = 0; // notifications that found too much running

  constructor(format, outbox, methods, most, report) {
    this.#format = format;
    this.#outbox = outbox;
    this.#methods = methods;
    this.#most = most;
    this.#report = report;
  }

  get size() {
    return this.#running.size;
  }

  open(link) {
    this.#link = link;
  }

  // The connection is gone: nobody waits for what runs. A call with a key goes on: it may be repeated.
  shut() {
    this.#link = null;
    for (const answer of this.#running.values()) answer.abort();
    this.#running.clear();
  }

  // Nobody will ever repeat a call.
  end() {
    this.shut();
    for (const { answer } of this.#kept.values()) answer.abort();
    this.#kept.clear();
  }

  // ---- What the peer says ----

  // Throws Malformed for a call whose id is that of one that runs.
  call(message) {
    const { id, method, key } = message;
    const run = this.#methods.get(method);
    if (this.#running.has(id)) throw new Malformed(`call ${id} is still running`);
    if (!run && method === "ping") this.#say({ type: "result", id });
    else if (!run) this.#refuse(id, "unknown-method", `there is no method ${JSON.stringify(method.slice(0, 80))}`);
    else if (this.#isFull(message)) this.#refuse(id, "busy", "too many calls at once");
    else {
      const answer = new Answer(message);
      const work = (params, context) => this.#work(run, params, context);
      this.#running.set(id, answer);
      const outcome = key === null ? answer.orAborted(answer.begin(work)) : this.#once(answer, message, work);
      void this.#run(answer, outcome, this.#link);
    }
  }

  cancel(id) {
    this.#running.get(id)?.giveUp();
    this.#running.delete(id);
  }

  more(id, count) {
    this.#running.get(id)?.grant(count);
  }

  // A call that nobody answers.
  notify({ method, params }) {
    const run = this.#methods.get(method);
    if (!run) return;
    if (this.#isBusy()) return void this.dropped++;
    this.#notified++;
    Promise.resolve(params)
      .then((params) => this.#work(run, params, { signal: new AbortController().signal, notify: true }))
      .catch((error) => this.#report(error))
      .finally(() => this.#notified--);
  }

  // A caller that gives up a call has a place for another one at once; but some methods are deaf to that.
  #isBusy() {
    return this.#running.size + this.#notified >= this.#most || this.#working >= 2 * this.#most;
  }

  async #work(run, params, context) {
    this.#working++;
    try {
      return await run(params, context);
    } finally {
      this.#working--;
    }
  }

  #isFull(message) {
    if (this.#isBusy()) return true;
    if (message.key === null || this.#kept.has(nameOf(message)) || this.#kept.size < KEPT) return false;
    return [...this.#kept.values()].every(({ isOver }) => !isOver);
  }

  // ---- What becomes of it ----

  async #run(answer, outcome, link) {
    const { id } = answer;
    const isWanted = () => link === this.#link && this.#running.get(id) === answer;
    try {
      let value = await outcome;
      if (isStream(value)) value = await this.#stream(answer, value, link, isWanted);
      if (isWanted()) this.#say({ type: "result", id, value: this.#written(value) });
    } catch (error) {
      if (isWanted()) this.#fail(id, error);
      else if (!(error instanceof CallError) && !answer.signal.aborted) this.#report(error);
    } finally {
      answer.end();
      if (this.#running.get(id) === answer) this.#running.delete(id);
    }
  }

  async #stream(answer, items, link, isWanted) {
    const iterator = items[Symbol.asyncIterator]();
    let isOver = false;
    try {
      if (answer.window === 0) throw new CallError("invalid", "the method streams", { path: "$.window" });
      while (true) {
        await answer.orAborted(answer.granted());
        if (!(await answer.orAborted(this.#outbox.roomFor(link)))) throw new CallError("cancelled");
        const { done, value } = await answer.orAborted(iterator.next());
        isOver = done;
        if (done) return value;
        if (isWanted()) this.#say({ type: "item", id: answer.id, value: this.#written(value) });
      }
    } finally {
      // Not waited for: it may be in the midst of an item that never comes.
      if (!isOver) void iterator.return?.()?.catch?.(this.#report);
    }
  }

  // The same call again has the first one's result, or its error, as long as anybody waits for it or may come back.
  async #once(answer, message, run) {
    const name = nameOf(message);
    const forgotten = () => {};
    while (this.#kept.get(name)?.isGivenUp) await answer.orAborted(this.#kept.get(name).outcome.catch(forgotten));
    const kept = this.#kept.get(name) ?? this.#begin(name, message, run);
    kept.waiting++;
    try {
      return await answer.orAborted(kept.heard);
    } finally {
      kept.waiting--;
      if (answer.isGivenUp && kept.waiting === 0 && !kept.isOver) {
        kept.isGivenUp = true;
        kept.answer.abort();
      }
    }
  }

  // Begin the run of a key. It has a deadline of its own, and its outcome is that of the method, even if that is deaf
  // to its signal. One that was cut off is forgotten.
  #begin(name, message, run) {
    const answer = new Answer(message);
    const kept = { answer, waiting: 0, isOver: false, isGivenUp: false, outcome: null, heard: null };
    this.#kept.set(name, kept);
    const refuseStream = (value) => {
      if (!isStream(value)) return value;
      void value.return?.();
      throw new CallError("invalid", "the method takes no key", { path: "$.key" });
    };
    kept.outcome = answer.begin(run).then(refuseStream);
    const over = () => {
      answer.end();
      kept.heard = kept.outcome; // also where it was cut off, and has come to its end nevertheless
      kept.isOver = true;
      kept.isGivenUp = false;
    };
    kept.outcome.then(over, (error) => {
      over();
      if (answer.signal.aborted) this.#kept.delete(name);
      else if (kept.waiting === 0 && !(error instanceof CallError)) this.#report(error);
    });
    kept.heard = answer.orAborted(kept.outcome);
    kept.heard.catch(() => {});
    if (this.#kept.size > KEPT) {
      const [oldest] = [...this.#kept].find(([, { isOver }]) => isOver) ?? [];
      this.#kept.delete(oldest);
    }
    return kept;
  }

  #fail(id, error) {
    // A timeout is one of a call that the method has made itself.
    if (error instanceof CallError && !(error instanceof CallTimeout)) {
      const { code, message, path } = error;
      try {
        const data = this.#written(error.data);
        return this.#say({ type: "error", id, code, message: message === code ? "" : message, path, data });
      } catch (cause) {
        error = cause; // its data has no form
      }
    }
    // What went wrong inside is for our own log, not for the peer.
    this.#refuse(id, "internal", "the method failed");
    this.#report(error);
  }

  #refuse(id, code, message) {
    this.#say({ type: "error", id, code, message });
  }

  #written(value) {
    return value === null || value === undefined ? null : new Written(this.#format, value);
  }

  #say(message) {
    if (!this.#link) return;
    const size = OVERHEAD + ((message.value ?? message.data)?.data.length ?? 0) + (message.message?.length ?? 0);
    this.#outbox.answer(this.#link, size, () => write(this.#format, message));
  }
}

function nameOf({ method, key }) {
  return JSON.stringify([method, key]);
}

function isStream(value) {
  return value !== null && typeof value === "object" && Symbol.asyncIterator in value;
}

// One call of the server's that runs.
class Answer {
  #controller = new AbortController();
  #timer = null;
  #credit;
  #wake = () => {};
  #params;
  #timeout;
  isGivenUp = false;

  constructor({ id, method, params, timeout, key, window }) {
    this.id = id;
    this.method = method;
    this.key = key;
    this.window = window;
    this.#credit = window;
    this.#params = params;
    this.#timeout = timeout;
    if (timeout !== null && timeout * 1000 < 2 ** 31) {
      const late = () => this.abort(new CallError("timeout", "the deadline passed"));
      this.#timer = setTimeout(late, timeout * 1000);
    }
  }

  get signal() {
    return this.#controller.signal;
  }

  // Run the method.
  begin(run) {
    const context = { signal: this.signal, timeout: this.#timeout === null ? null : this.#timeout * 1000 };
    return Promise.resolve(this.#params).then((params) => run(params, context));
  }

  // Wait for what may not listen to the signal.
  orAborted(promise) {
    const { signal } = this;
    return new Promise((resolve, reject) => {
      const abort = () => reject(signal.reason);
      if (signal.aborted) abort();
      signal.addEventListener("abort", abort, { once: true });
      promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
    });
  }

  // Resolves when the peer takes one more item.
  async granted() {
    while (this.#credit === 0) await new Promise((done) => (this.#wake = done));
    this.#credit--;
  }

  grant(count) {
    this.#credit += count;
    this.#wake();
  }

  abort(reason = new CallError("cancelled", "the caller gave up")) {
    this.#controller.abort(reason);
  }

  // The caller wants it no more.
  giveUp() {
    this.isGivenUp = true;
    this.abort();
  }

  end() {
    clearTimeout(this.#timer);
  }
}
