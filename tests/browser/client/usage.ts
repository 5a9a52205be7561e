// The types as people use them; compiled, never run.

import {
  CallError,
  Session,
  Subscription,
  type Gap,
  type Position,
  type TopicEvent,
} from "../../../trioweb/browser/trioweb.js";

interface Line {
  who: string;
  text: string;
}

const session = new Session(async () => `/chat?token=${await Promise.resolve("t")}`, {
  format: "msgpack",
  backoff: { base: 100, cap: 5_000 },
  heartbeat: null,
  queue: { overflow: "drop-oldest" },
  first: () => new Uint8Array([1]),
  WebSocket,
});

session.addEventListener("state", ({ detail }) => {
  const wait: number | undefined = detail.delay;
  if (detail.state === "closed") console.log(detail.close?.code, wait);
});

session.methods.set("ask", async (params, { signal }) => {
  if (signal.aborted) throw new CallError("conflict", "no", { data: params });
  return 1;
});
session.methods.set("count", async function* () {
  yield 1;
});

async function use(): Promise<void> {
  const sum: number = await session.call<number>("add", [1, 2], { signal: AbortSignal.timeout(100), repeat: true });
  for await (const item of session.stream<string>("names", null, { window: 8 })) item.toUpperCase();
  const lines: Subscription<Line> = session.subscribe<Line>("lines", { position: { epoch: "e", offset: sum } });
  lines.addEventListener("join", ({ detail }) => console.log(detail.user));
  for await (const event of lines) {
    if (event.type === "gap") console.log(event.missed);
    else console.log(event.data.text, event.position?.offset);
  }
  session.subscribe<Line>("lines", { onEvent: (event: TopicEvent<Line> | Gap) => event.topic });
  const position: Position | null = await session.publish("lines", { who: "me", text: "hi" });
  const { events } = await session.history<Line>("lines", { position, limit: 5 });
  console.log(events[0]?.data.who, (await session.presence("lines")).map(({ user }) => user));
  await session.close(1000, "done");
}

void use();

// @ts-expect-error: no such format
new Session("/chat", { format: "xml" });
// @ts-expect-error: no such option
new Session("/chat", { retries: 3 });
// @ts-expect-error: seconds are no text
void session.call("add", null, { timeout: "5s" });
// @ts-expect-error: a subscription is made by its session
new Subscription();
