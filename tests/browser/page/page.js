// What the tests ask this page to do.

import * as trioweb from "/trioweb/trioweb.js";

let session;
const got = [];
const presence = [];

window.client = {
  begin(options) {
    const { user, format } = options;
    session = new trioweb.Session(`/?user=${user}&format=${format}`, { backoff: { base: 50, cap: 200 }, format });
    session.methods.set("double", (number) => number * 2);
    session.methods.set("count", async function* ({ to }) {
      for (let number = 0; number < to; number++) yield number;
    });
    session.methods.set("fail", () => {
      throw new trioweb.CallError("conflict", "not now");
    });
    return new Promise((done) => session.addEventListener("state", ({ detail }) => detail.state === "open" && done()));
  },

  async calls() {
    const failure = async (promise) => promise.then(() => "no failure", ({ name, code, message }) => [name, code, message]);
    const controller = new AbortController();
    const cancelled = failure(session.call("sleep", null, { signal: controller.signal }));
    while ((await session.call("running")) === 0);
    controller.abort();
    const items = [];
    for await (const item of session.stream("count", { to: 100 }, { window: 4 })) items.push(item);
    for await (const item of session.stream("count", { to: 1e9 }, { window: 4 })) if (item === 10) break;
    return {
      sum: await session.call("add", { a: 2 ** 40, b: 2 }),
      invalid: await failure(session.call("add", { a: "x", b: 2 })),
      unknown: await failure(session.call("nothing")),
      late: await failure(session.call("sleep", null, { timeout: 50 })),
      cancelled: (await cancelled)[0],
      items: items.length === 100 && items.every((item, index) => item === index),
      back: await session.call("back", { method: "double", params: 21 }),
      backStream: await session.call("back_stream", { to: 20 }),
      backFails: await failure(session.call("back", { method: "fail", params: null })),
      running: await session.call("running"),
      statistics: session.statistics(),
    };
  },

  async listen(topic, options) {
    const subscription = session.subscribe(topic, options);
    for (const kind of ["join", "leave"]) {
      subscription.addEventListener(kind, ({ detail }) => presence.push([kind, detail.user]));
    }
    void (async () => {
      for await (const event of subscription) got.push(event.type === "gap" ? "gap" : event.data);
    })();
    await subscription.ready;
  },

  async publish(topic, ...values) {
    for (const value of values) await session.publish(topic, value, { repeat: true });
  },

  failure: (promise) => promise.then(() => "no failure", ({ name, code }) => [name, code]),
  subscribe: (topic) => session.subscribe(topic).ready,

  got: () => got,
  presence: () => presence,
  users: async (topic) => (await session.presence(topic)).map(({ user }) => user),
  history: (topic) => session.history(topic, { limit: 2 }),
  state: () => session.state,
  leave: (method) => session.notify(method),
  close: () => session.close(),
};
