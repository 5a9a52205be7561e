// What is going on in the chat: who I am, what was said where, what waits to be said. How it looks is in view.js.

import { CallError, CallLost, Session } from "/trioweb/trioweb.js";

const PAGE = 50; // messages of history at a time
const TYPING_EVERY = 2000; // ms between two notices that we write
const TYPING_LASTS = 4500; // ms for which one of somebody else counts
const KICKED = 4503;
// Answers after which another attempt may go better.
const PASSING = new Set(["busy", "cancelled", "internal", "rate-limited", "timeout"]);

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
// crypto.randomUUID is for secure origins alone, and a chat in the house has none.
const random = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");

function load(store, name, otherwise) {
  try {
    return JSON.parse(store.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function save(store, name, value) {
  try {
    store.setItem(name, JSON.stringify(value));
  } catch {
    // No room, or not allowed: then it lasts as long as the page.
  }
}

// The secret by which the server knows this browser again: with it the name is ours.
function ownKey() {
  const key = load(localStorage, "chat.key", null) ?? random();
  save(localStorage, "chat.key", key);
  return key;
}

// A topic that is kept, as far as it is loaded: a room, or my inbox, whose messages are of several conversations.
class Feed {
  first = null; // the position of the oldest message that is loaded
  hasEarlier = false;

  constructor(topic) {
    this.topic = topic;
  }
}

// One place to talk: "#room" or "@person".
class Conversation {
  messages = []; // {key, by, to, text, at, mine, epoch, offset}, or {note, at}
  unread = 0;
  firstNew = null; // the message from which on it was unread
  typing = new Map(); // name -> the timer that ends it
  draft = "";

  constructor(name, feed) {
    this.name = name;
    this.feed = feed;
  }

  get isRoom() {
    return this.name.startsWith("#");
  }

  get title() {
    return this.isRoom ? this.name : this.name.slice(1);
  }
}

// Events: "welcome", "refused" {reason}, "kicked" {reason}, "ended" {reason}, "connection" {state, delay, close},
// "people", "conversations", "message" {conversation, message}, "reload" {conversation}, "outgoing", "typing".
export class Chat extends EventTarget {
  me = null;
  isModerator = false;
  maxText = 2000;
  conversations = new Map();
  current = null;
  people = new Map(); // name -> what is known of whoever is in the chat
  here = new Map(); // the same for the room that is open
  outgoing = []; // {key, to, text, at, state: "waiting", "sent" or "failed"}
  connection = { state: "connecting" };
  #session;
  #room = null; // the subscription to who is in the open room
  #seen = {}; // conversation -> the position up to which it was read
  #isSending = false;
  #toldTyping = -Infinity;

  constructor(name, word = "") {
    super();
    const first = () => JSON.stringify({ name, key: ownKey(), word });
    this.#session = new Session("/", { first, backoff: { cap: 5_000 }, maxMessage: 2 ** 14 });
    this.#session.addEventListener("state", ({ detail }) => this.#changed(detail));
  }

  // ---- Coming in ----

  #changed(detail) {
    this.connection = detail;
    this.#tell("connection", detail);
    if (detail.state === "open") void this.#greet();
    if (detail.state !== "closed") return;
    const { code, reason } = detail.close;
    if (code === KICKED) this.#discardAll();
    if (code === KICKED) this.#tell("kicked", { reason });
    else if (code === 1008) this.#tell("refused", { reason });
    else if (code !== 1000) this.#tell("ended", { reason: reason || `code ${code}` });
  }

  async #greet() {
    const hello = await this.#again(() => this.#session.call("hello"));
    if (!hello) return; // the session's end says why
    this.isModerator = hello.is_moderator;
    if (this.me) return;
    this.me = hello.name;
    this.maxText = hello.max_text;
    this.#seen = load(localStorage, `chat.seen.${this.me}`, {});
    this.outgoing = load(sessionStorage, `chat.outgoing.${this.me}`, []); // of the page before it was loaded anew
    for (const room of hello.rooms) {
      const feed = new Feed(`room/${room}`);
      this.conversations.set(`#${room}`, new Conversation(`#${room}`, feed));
      void this.#follow(feed);
    }
    this.inbox = new Feed(`inbox/${this.me}`);
    void this.#follow(this.inbox);
    this.#session.subscribe(`typing/${this.me}`, { onEvent: (event) => this.#typed(event) });
    this.#watch("people", this.people, ({ data }) => {
      const why = data.reason ? `: ${data.reason}` : "";
      this.#note(this.current, `${data.kicked} was removed by ${data.by}${why}`);
      for (const users of [this.people, this.here]) users.delete(data.kicked); // the server leaves them a while to come back
      this.#tell("people");
    });
    addEventListener("storage", ({ key, newValue }) => {
      if (key === `chat.seen.${this.me}` && newValue) this.#readElsewhere(JSON.parse(newValue));
    });
    this.#tell("welcome");
    void this.#send();
  }

  retry() {
    this.#session.retry();
  }

  leave() {
    this.#discardAll();
    void this.#session.close();
  }

  // ---- What was said ----

  // Load the newest messages of a topic, and then go on from there: nothing is missed between the two.
  async #follow(feed) {
    const found = await this.#again(() => this.#session.history(feed.topic, { limit: PAGE }));
    if (!found) return;
    const { epoch } = found.position;
    const isFirstVisit = feed !== this.inbox && !this.#seen[`#${feed.topic.slice(5)}`];
    if (isFirstVisit) this.#seen[`#${feed.topic.slice(5)}`] = found.position;
    for (const { offset, data } of found.events ?? []) this.#take(feed, epoch, offset, data);
    this.#reach(feed, epoch, found.events ?? []);
    for (const conversation of this.#of(feed)) this.#tell("reload", { conversation });
    this.#tell("conversations");
    try {
      for await (const event of this.#session.subscribe(feed.topic, { position: found.position })) {
        if (event.type === "gap") {
          for (const one of this.#of(feed)) this.#note(one, "Messages are missing here: the server no longer has them");
        } else {
          const { epoch, offset } = event.position;
          const [conversation, message] = this.#take(feed, epoch, offset, event.data);
          this.#tell("message", { conversation, message });
          this.#tell("conversations");
        }
      }
    } catch {
      // The session has ended, and says why.
    }
  }

  #reach(feed, epoch, events) {
    if (events.length) feed.first = { epoch, offset: events[0].offset };
    feed.hasEarlier = events.length > 0 && events[0].offset > 1;
  }

  #of(feed) {
    return [...this.conversations.values()].filter((one) => one.feed === feed);
  }

  // The conversation with somebody, which begins here if there is none yet.
  with(name) {
    const key = `@${name}`;
    if (!this.conversations.has(key)) this.conversations.set(key, new Conversation(key, this.inbox));
    return this.conversations.get(key);
  }

  #place({ by, to }) {
    return to.startsWith("#") ? this.conversations.get(to) : this.with(by === this.me ? to.slice(1) : by);
  }

  #take(feed, epoch, offset, data) {
    const mine = data.by === this.me;
    const message = { ...data, mine, epoch, offset };
    const conversation = this.#place(data);
    conversation.messages.push(message);
    this.#stopTyping(conversation, data.by);
    const seen = this.#seen[conversation.name];
    const isNew = !mine && !(seen?.epoch === epoch && offset <= seen.offset);
    if (isNew && !(conversation === this.current && document.hasFocus())) {
      if (conversation.unread++ === 0) conversation.firstNew = message;
    } else if (conversation === this.current) this.read();
    if (mine) this.#arrived(data.key);
    return [conversation, message];
  }

  async earlier(conversation) {
    const { feed } = conversation;
    const { epoch, offset } = feed.first;
    const position = { epoch, offset: Math.max(offset - 1 - PAGE, 0) };
    const limit = offset - 1 - position.offset;
    feed.hasEarlier = false; // until we know
    const found = await this.#again(() => this.#session.history(feed.topic, { position, limit }));
    if (!found) return;
    const events = (found.events ?? []).filter((one) => one.offset < offset);
    const changed = new Set([conversation]);
    for (const { offset, data } of events.toReversed()) {
      const place = this.#place(data);
      place.messages.unshift({ ...data, mine: data.by === this.me, epoch, offset });
      changed.add(place);
    }
    this.#reach(feed, epoch, events);
    if (events[0]?.offset > position.offset + 1) feed.hasEarlier = false; // the rest is no longer kept
    for (const one of changed) this.#tell("reload", { conversation: one });
  }

  #note(conversation, note) {
    if (!conversation) return;
    const message = { note, at: Date.now() / 1000 };
    conversation.messages.push(message);
    this.#tell("message", { conversation, message });
  }

  // ---- Where I am ----

  open(conversation) {
    if (this.current === conversation) return this.read();
    if (this.current) this.current.firstNew = null;
    this.current = conversation;
    this.#room?.unsubscribe();
    this.#room = null;
    this.here.clear();
    if (conversation.isRoom) {
      const onEvent = (event) => this.#typed(event);
      this.#room = this.#watch(`here/${conversation.name.slice(1)}`, this.here, onEvent);
    }
    this.read();
    this.#tell("reload", { conversation });
    this.#tell("people");
    this.#tell("typing");
  }

  // All that is in the open conversation is read now.
  read() {
    const last = this.current?.messages.findLast((one) => !one.note);
    if (!last) return;
    this.current.unread = 0;
    this.#seen[this.current.name] = { epoch: last.epoch, offset: last.offset };
    save(localStorage, `chat.seen.${this.me}`, this.#seen);
    this.#tell("conversations");
  }

  // Another tab of this browser has read something.
  #readElsewhere(seen) {
    Object.assign(this.#seen, seen);
    for (const one of this.conversations.values()) {
      const [last, mark] = [one.messages.findLast(({ note }) => !note), seen[one.name]];
      if (last && last.epoch === mark?.epoch && last.offset <= mark.offset) one.unread = 0;
    }
    this.#tell("conversations");
  }

  // ---- Who is there ----

  #watch(topic, users, onEvent) {
    const subscription = this.#session.subscribe(topic, { onEvent: (event) => event.type === "event" && onEvent(event) });
    const ask = async () => {
      const found = await this.#session.presence(topic).catch(() => null);
      if (!found || subscription.isOver) return;
      users.clear();
      for (const { user, info } of found) users.set(user, info ?? {});
      this.#tell("people");
    };
    subscription.addEventListener("subscribed", ask);
    subscription.addEventListener("gap", ask);
    for (const kind of ["join", "leave"]) {
      subscription.addEventListener(kind, ({ detail: { user, info } }) => {
        if (kind === "join") users.set(user, info ?? {});
        else users.delete(user);
        this.#tell("people");
      });
    }
    return subscription;
  }

  typing() {
    const now = performance.now();
    if (now - this.#toldTyping < TYPING_EVERY || this.connection.state !== "open") return;
    this.#toldTyping = now;
    this.#session.notify("typing", { to: this.current.name });
  }

  #typed({ data }) {
    if (!data || data.by === this.me) return;
    const conversation = this.#place(data);
    clearTimeout(conversation.typing.get(data.by));
    conversation.typing.set(data.by, setTimeout(() => this.#stopTyping(conversation, data.by), TYPING_LASTS));
    this.#tell("typing");
  }

  #stopTyping({ typing }, name) {
    clearTimeout(typing.get(name));
    if (typing.delete(name)) this.#tell("typing");
  }

  kick(name, reason) {
    return this.#session.call("kick", { name, reason });
  }

  // ---- What I say ----

  // It is shown at once, and leaves when it can: with a key, so that it arrives once however often it is sent.
  say(text) {
    this.outgoing.push({ key: random(), to: this.current.name, text, at: Date.now() / 1000, state: "waiting" });
    this.#toldTyping = -Infinity;
    this.current.firstNew = null;
    this.#sorted();
    void this.#send();
  }

  discard(key) {
    this.#arrived(key);
  }

  #discardAll() {
    this.outgoing = [];
    if (this.me) this.#sorted();
  }

  #arrived(key) {
    const at = this.outgoing.findIndex((one) => one.key === key);
    if (at < 0) return;
    this.outgoing.splice(at, 1);
    this.#sorted();
  }

  #sorted() {
    save(sessionStorage, `chat.outgoing.${this.me}`, this.outgoing.filter((one) => one.state === "waiting"));
    this.#tell("outgoing");
  }

  // One message after the other, so that they stay in order.
  async #send() {
    if (this.#isSending) return;
    this.#isSending = true;
    let one;
    while ((one = this.outgoing.find(({ state }) => state === "waiting"))) {
      const { key, to, text } = one;
      try {
        const done = await this.#again(() => this.#session.call("say", { key, to, text }, { repeat: true }));
        if (done === undefined) break;
        one.state = "sent";
      } catch (error) {
        Object.assign(one, { state: "failed", why: error.message });
      }
      this.#sorted();
    }
    this.#isSending = false;
  }

  // Make a call until it is answered. Returns undefined if the session ends, throws what will not change.
  async #again(call) {
    while (this.connection.state !== "closed") {
      try {
        return await call();
      } catch (error) {
        const isPassing = error instanceof CallError && PASSING.has(error.code);
        if (!isPassing && !(error instanceof CallLost)) {
          if (this.connection.state === "closed") return undefined;
          throw error;
        }
        if (error.code === "rate-limited") this.#tell("hurry", { after: error.data.after });
        await sleep(error.data?.after * 1000 || 1000);
      }
    }
    return undefined;
  }

  #tell(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
