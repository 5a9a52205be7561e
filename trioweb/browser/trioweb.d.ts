// The types of trioweb.js. Times are in milliseconds, sizes in bytes.

/** Where a topic stands: `offset` counts the events of an `epoch`, from 1 on. */
export interface Position {
  readonly epoch: string;
  readonly offset: number;
}

/** How a connection, or a session, has ended. */
export interface Close {
  readonly code: number;
  readonly reason: string;
}

// ---- Options -----------------------------------------------------------------------------------------------

export interface BackoffOptions {
  /** The bound of the wait after the first failure: 500. */
  base?: number;
  /** Each failure in a row makes the bound so many times as large: 2. */
  factor?: number;
  /** The largest bound: 30,000. */
  cap?: number;
  /** Failures in a row after which the session gives up: Infinity. */
  attempts?: number;
  /** A connection that was open for so long counts as a success: 10,000. */
  reset?: number;
  /** Returns a number from 0 up to 1: Math.random. */
  random?: () => number;
}

export interface HeartbeatOptions {
  /** Silence after which the server is asked whether it is there: 20,000. */
  interval: number;
  /** Silence after that which means that it is not: 10,000. */
  timeout: number;
}

export interface QueueOptions {
  /** Messages: 1024. */
  items?: number;
  /** Bytes, about: 1 MiB. */
  bytes?: number;
  /** What becomes of a message that finds the queue full: "fail". A call that is dropped rejects with QueueFull. */
  overflow?: "fail" | "drop-oldest" | "drop-newest";
}

export interface WebSocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: any): void;
  close(code?: number, reason?: string): void;
}

export type Message = string | ArrayBuffer | Uint8Array<ArrayBuffer>;

export interface SessionOptions {
  /** What the session writes: "json". It reads both. */
  format?: "json" | "msgpack";
  /** Subprotocols to offer. */
  protocols?: string | string[];
  /** Returns the message that goes before all others on each connection: a token, say. */
  first?: (() => Message | null | undefined | Promise<Message | null | undefined>) | null;
  backoff?: BackoffOptions;
  /** Until there must be a URL, then an open connection, then its first message: 10,000 each. */
  connectTimeout?: number;
  /** null: none. */
  heartbeat?: HeartbeatOptions | null;
  queue?: QueueOptions;
  /** The time of a call that names none: 30,000. null: none. */
  callTimeout?: number | null;
  /** Calls under way, those in the queue among them: 1024. */
  maxCalls?: number;
  /** Calls of the server's at once: 64. */
  maxAnswers?: number;
  /** Bytes of one message: 1 MiB, as the server's `Limits.max_message`. What is more throws TooLarge. */
  maxMessage?: number;
  /** Messages that cannot be understood, on one connection: 16. */
  maxMalformed?: number;
  /** Hears what a method or a callback throws: reportError, or else console.error. */
  onError?: (error: unknown) => void;
  /** The class to use, where there is none or another is wanted. */
  WebSocket?: new (url: string, protocols?: string | string[]) => WebSocketLike;
}

export interface CallOptions {
  /** null: none. */
  timeout?: number | null;
  signal?: AbortSignal;
  /** The call goes out again if the connection breaks, with one key, and is run once. A text is the key itself. */
  repeat?: boolean | string;
}

export interface StreamOptions {
  /** Items that the server may be ahead: 32. */
  window?: number;
  /** For the whole stream: none. */
  timeout?: number | null;
  signal?: AbortSignal;
}

export interface HistoryOptions extends CallOptions {
  /** The events after it, oldest first; without one the newest. */
  position?: Position | null;
  /** Events at most: 100. */
  limit?: number;
}

export interface SubscribeOptions<T = any> {
  /** Begin behind this position, as far as the history reaches; else now. */
  position?: Position | null;
  /** "all" events, or the "latest" alone. */
  recover?: "all" | "latest";
  /** What may wait for a slow reader: 1024 items, 1 MiB. What is more stays in the topic's history. */
  buffer?: { items?: number; bytes?: number };
  /** Called with each event, after the promise of the one before; in place of iterating. */
  onEvent?: (event: TopicEvent<T> | Gap) => unknown;
}

// ---- What comes in -----------------------------------------------------------------------------------------

/** A publication. */
export interface TopicEvent<T = any> {
  readonly type: "event";
  readonly topic: string;
  readonly data: T;
  /** To go on behind it; null where the topic keeps no history. */
  readonly position: Position | null;
}

/** Events are lost here. */
export interface Gap {
  readonly type: "gap";
  readonly topic: string;
  /** null: nobody knows how many. */
  readonly missed: number | null;
  readonly position: Position | null;
}

export interface History<T = any> {
  readonly position: Position | null;
  /** Whether the events are all there were. */
  readonly recovered: boolean | null;
  readonly events: ReadonlyArray<{ readonly offset: number; readonly data: T }>;
}

export interface User {
  readonly user: any;
  readonly info: any;
  readonly connections: number;
}

export type State = "connecting" | "open" | "waiting" | "closed";

export interface StateChange {
  readonly state: State;
  /** How the last connection ended; with "waiting" and "closed". */
  readonly close?: Close;
  /** Until the next attempt; with "waiting". */
  readonly delay?: number;
}

/** What a method of ours hears of its call. */
export interface MethodContext {
  /** Aborts when the caller gives up, its time is over, or the connection is lost. */
  readonly signal: AbortSignal;
  /** The time that the caller gave. */
  readonly timeout?: number | null;
  /** Nobody waits for an answer. */
  readonly notify?: true;
}

/** A method that the server may call. One that returns an async iterable is a stream. */
export type Method = (params: any, context: MethodContext) => unknown;

export interface Statistics {
  readonly state: State;
  readonly failures: number;
  readonly connections: number;
  readonly received: number;
  readonly malformed: number;
  readonly dropped: number;
  readonly queuedItems: number;
  readonly queuedBytes: number;
  readonly calls: number;
  readonly answers: number;
  /** Notifications of the server's that were left out, for as many methods ran as may. */
  readonly droppedNotifications: number;
  readonly subscriptions: number;
}

// ---- Sessions ----------------------------------------------------------------------------------------------

export interface SessionEvents {
  state: CustomEvent<StateChange>;
}

/** Calls, topics and notifications over one connection after the other. It connects at once. */
export class Session extends EventTarget {
  constructor(url: string | URL | (() => string | URL | Promise<string | URL>), options?: SessionOptions);
  readonly state: State;
  /** Resolves when the session is over. */
  readonly closed: Promise<Close>;
  /** What the server may call. */
  readonly methods: Map<string, Method>;
  call<T = any>(method: string, params?: unknown, options?: CallOptions): Promise<T>;
  stream<T = any, R = any>(method: string, params?: unknown, options?: StreamOptions): AsyncGenerator<T, R, void>;
  notify(method: string, params?: unknown): void;
  subscribe<T = any>(topic: string, options?: SubscribeOptions<T>): Subscription<T>;
  publish(topic: string, data: unknown, options?: CallOptions): Promise<Position | null>;
  history<T = any>(topic: string, options?: HistoryOptions): Promise<History<T>>;
  presence(topic: string, options?: CallOptions): Promise<User[]>;
  /** Do not wait for the next attempt; where there is a connection, find out whether it lives. */
  retry(): void;
  close(code?: number, reason?: string): Promise<Close>;
  statistics(): Statistics;
  addEventListener<K extends keyof SessionEvents>(
    type: K,
    listener: (event: SessionEvents[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

export interface SubscriptionEvents {
  subscribed: CustomEvent<{ topic: string; recovered: boolean | null; position: Position | null }>;
  gap: CustomEvent<{ topic: string; missed: number | null }>;
  join: CustomEvent<{ topic: string; user: any; info: any }>;
  leave: CustomEvent<{ topic: string; user: any; info: any }>;
  end: CustomEvent<{ error: Error | null }>;
}

/** One topic: each event once, in order, or a gap that says so. It is made by `Session.subscribe`. */
export class Subscription<T = any> extends EventTarget implements AsyncIterableIterator<TopicEvent<T> | Gap> {
  private constructor();
  readonly topic: string;
  /** Behind the last event that was taken. */
  readonly position: Position | null;
  /** Whether the last connection's answer had all that came before it; null at the first. */
  readonly recovered: boolean | null;
  /** Events that are known to be lost. */
  readonly missed: number;
  /** Resolves when the server has agreed for the first time. */
  readonly ready: Promise<void>;
  readonly isOver: boolean;
  [Symbol.asyncIterator](): this;
  next(): Promise<IteratorResult<TopicEvent<T> | Gap, undefined>>;
  return(value?: any): Promise<IteratorResult<TopicEvent<T> | Gap, any>>;
  unsubscribe(): Promise<void>;
  addEventListener<K extends keyof SubscriptionEvents>(
    type: K,
    listener: (event: SubscriptionEvents[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

/** Whether a session does not come back after this close code. */
export function isTerminal(code: number): boolean;

// ---- Errors ------------------------------------------------------------------------------------------------

export class TriowebError extends Error {}

/** A call was answered with an error; a method of ours throws one to answer with it. */
export class CallError extends TriowebError {
  constructor(code: string, message?: string, details?: { path?: string | null; data?: any; cause?: unknown });
  readonly code: string;
  readonly path: string | null;
  readonly data: any;
}

export class CallTimeout extends CallError {
  constructor(message?: string, details?: { path?: string | null; data?: any });
}

/** The link broke while the call was under way: nobody knows whether it was run. */
export class CallLost extends TriowebError {
  constructor(message?: string);
}

export class SessionClosed extends TriowebError {
  constructor(message: string, close: Close);
  readonly close: Close;
}

export class QueueFull extends TriowebError {}

/** A value is larger than `maxMessage`. */
export class TooLarge extends TriowebError {}

/** The server ended a subscription, or refused it. */
export class Unsubscribed extends TriowebError {
  constructor(topic: string, code: string, message?: string);
  readonly topic: string;
  readonly code: string;
}

/** The server said what the protocol does not allow. */
export class Malformed extends TriowebError {
  constructor(message: string, details?: { code?: string; path?: string | null; answers?: number | null; fails?: number | null });
}

export class MsgpackError extends TriowebError {}

// ---- MessagePack -------------------------------------------------------------------------------------------

/** A value of an extension type. */
export class Ext {
  constructor(type: number, data: Uint8Array);
  readonly type: number;
  readonly data: Uint8Array;
}

export function encode(value: unknown): Uint8Array<ArrayBuffer>;
export function decode(data: ArrayBuffer | Uint8Array): any;
