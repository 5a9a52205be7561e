// The topics that a session listens to: at most one subscription for each.

import { CallError } from "./errors.js";
import { Subscription } from "./subscription.js";

export class Topics {
  #calls;
  #timeout;
  #report;
  #link = null;
  #all = new Map(); // topic -> Subscription
  #leaving = new Map(); // topic -> a promise that the server has heard of it

  constructor(calls, timeout, report) {
    this.#calls = calls;
    this.#timeout = timeout;
    this.#report = report;
  }

  get size() {
    return this.#all.size;
  }

  subscribe(topic, options) {
    if (this.#all.has(topic)) throw new RangeError(`there is a subscription to ${topic} already`);
    const host = {
      call: (method, params, link, onValue) =>
        this.#calls.start(method, params, { link, timeout: this.#timeout, onValue }).result,
      left: (subscription) => this.#left(subscription),
      report: this.#report,
    };
    const subscription = new Subscription(host, topic, options);
    this.#all.set(topic, subscription);
    subscription.addEventListener("end", () => {
      if (this.#all.get(topic) === subscription) this.#all.delete(topic);
    });
    if (this.#link) void this.#open(subscription, this.#link);
    return subscription;
  }

  // A connection is there, and these are the first calls on it.
  open(link) {
    this.#link = link;
    this.#leaving.clear();
    for (const subscription of this.#all.values()) void subscription.open(link);
  }

  shut() {
    this.#link = null;
    for (const subscription of this.#all.values()) subscription.shut();
  }

  end(error) {
    for (const subscription of [...this.#all.values()]) subscription.end(error);
  }

  // ---- What the server says ----

  event({ topic, offset, data }, size) {
    this.#all.get(topic)?.event(offset, data, size);
  }

  // True if a notification was about a topic.
  notify({ method, params }) {
    const subscription = this.#all.get(params?.topic);
    if (method === "gap") subscription?.gap(params);
    else if (method === "unsubscribed") subscription?.ended(params);
    else if (subscription && (method === "join" || method === "leave")) subscription.presence(method, params);
    else return false; // one of the application's
    return true;
  }

  // ---- Coming and going ----

  // Two calls on the way may pass each other at the server: who comes back waits until the leave is heard.
  async #open(subscription, link) {
    await this.#leaving.get(subscription.topic);
    if (link === this.#link && !subscription.isOver) await subscription.open(link);
  }

  async #left({ topic, asked }) {
    const link = this.#link;
    if (!link) return;
    const heard = this.#leave(topic, asked, link);
    this.#leaving.set(topic, heard);
    await heard;
    if (this.#leaving.get(topic) === heard) this.#leaving.delete(topic);
  }

  // Behind the answer to the subscribe, or that might be the later one at the server.
  async #leave(topic, asked, link) {
    await asked;
    if (link !== this.#link) return;
    try {
      await this.#calls.start("unsubscribe", { topic }, { link, timeout: this.#timeout }).result;
    } catch (error) {
      if (error instanceof CallError) this.#report(error);
    }
  }
}
