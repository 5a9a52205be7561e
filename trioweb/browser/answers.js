// The calls that the server makes: each runs a method of the session's, and is answered with what that returns, with
// its items, or with what it throws.

import { CallError } from "./errors.js";
import { Written, write } from "./wire.js";

// Results of calls with a key that are kept, so that the same call again is not run twice. The oldest go first.
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
  #kept = new Map(); // key -> a promise of what the method made of it

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

  // The connection is gone: nobody waits for what runs.
  shut() {
    this.#link = null;
    for (const answer of this.#running.values()) answer.abort();
    this.#running.clear();
  }

  // ---- What the peer says ----

  call(message) {
    const { id, method, key } = message;
    const run = this.#methods.get(method);
    if (!run && method === "ping") this.#say({ type: "result", id });
    else if (!run) this.#refuse(id, "unknown-method", `no method ${JSON.stringify(method.slice(0, 80))}`);
    else if (this.#running.has(id)) this.#refuse(null, "invalid", `call ${id} is under way`);
    else if (this.#running.size >= this.#most) this.#refuse(id, "busy", `${this.#most} calls at once`);
    else {
      const answer = new Answer(message);
      this.#running.set(id, answer);
      void this.#run(answer, key === null ? answer.begin(run) : this.#once(key, answer, run), this.#link);
    }
  }

  cancel(id) {
    this.#running.get(id)?.abort();
    this.#running.delete(id);
  }

  more(id, count) {
    this.#running.get(id)?.grant(count);
  }

  // A call that nobody answers.
  notify({ method, params }) {
    const run = this.#methods.get(method);
    if (!run) return;
    Promise.resolve(params)
      .then((params) => run(params, { signal: new AbortController().signal, notify: true }))
      .catch((error) => this.#report(error));
  }

  // ---- What becomes of it ----

  async #run(answer, outcome, link) {
    const { id } = answer;
    const isWanted = () => link === this.#link && this.#running.get(id) === answer;
    try {
      let value = await outcome;
      if (value?.[Symbol.asyncIterator]) value = await this.#stream(answer, value, link, isWanted);
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
    if (answer.window === 0) {
      await iterator.return?.();
      throw new CallError("invalid", "a method that streams was called without a window");
    }
    while (true) {
      if (!(await answer.granted()) || !(await this.#outbox.roomFor(link))) {
        void iterator.return?.()?.catch?.(this.#report);
        throw answer.signal.reason ?? new CallError("cancelled");
      }
      const { done, value } = await answer.orAborted(iterator.next());
      if (done) return value;
      if (isWanted()) this.#say({ type: "item", id: answer.id, value: this.#written(value) });
    }
  }

  // The same call again has the first one's result; one that failed of itself, too, but not one that was cut off.
  #once(key, answer, run) {
    const kept = this.#kept.get(key);
    if (kept) return answer.orAborted(kept);
    const outcome = answer.begin(run);
    this.#kept.set(key, outcome);
    outcome.catch((error) => {
      if (!(error instanceof CallError) || answer.signal.aborted) this.#kept.delete(key);
    });
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value);
    return outcome;
  }

  #fail(id, error) {
    if (error instanceof CallError) {
      const { code, message, path, data } = error;
      this.#say({ type: "error", id, code, message: message === code ? "" : message, path, data });
    } else {
      // What went wrong inside is for our own log, not for the peer.
      this.#refuse(id, "internal", "the method failed");
      this.#report(error);
    }
  }

  #refuse(id, code, message) {
    this.#say({ type: "error", id, code, message });
  }

  #written(value) {
    return value === null || value === undefined ? null : new Written(this.#format, value);
  }

  #say(message) {
    if (!this.#link) return;
    const size = OVERHEAD + (message.value?.data.length ?? 0);
    this.#outbox.answer(this.#link, size, () => write(this.#format, message));
  }
}

// One call of the server's that runs.
class Answer {
  #controller = new AbortController();
  #timer = null;
  #credit;
  #wake = () => {};
  #params;
  #timeout;

  constructor({ id, params, timeout, window }) {
    this.id = id;
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

  // Run the method; a deadline ends the wait for one that does not listen to its signal.
  begin(run) {
    const context = { signal: this.signal, timeout: this.#timeout === null ? null : this.#timeout * 1000 };
    return this.orAborted(Promise.resolve(this.#params).then((params) => run(params, context)));
  }

  orAborted(promise) {
    const { signal } = this;
    return new Promise((resolve, reject) => {
      const abort = () => reject(signal.reason);
      if (signal.aborted) abort();
      signal.addEventListener("abort", abort, { once: true });
      promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
    });
  }

  // Resolves when the peer takes an item: false if it no longer wants any.
  async granted() {
    while (this.#credit === 0 && !this.signal.aborted) await new Promise((done) => (this.#wake = done));
    this.#credit--;
    return !this.signal.aborted;
  }

  grant(count) {
    this.#credit += count;
    this.#wake();
  }

  abort(reason = new CallError("cancelled", "the caller gave up")) {
    this.#controller.abort(reason);
    this.#wake();
  }

  end() {
    clearTimeout(this.#timer);
  }
}
