// trioweb in the browser: one ES module without dependencies. It speaks the protocol of docs/reference/wire.md, and
// docs/reference/toolkit/browser.md says what each part does. Times are in milliseconds.

export { Session, isTerminal } from "./session.js";
export { Subscription } from "./subscription.js";
export {
  CallError,
  CallTimeout,
  CallLost,
  Malformed,
  MsgpackError,
  QueueFull,
  SessionClosed,
  TooLarge,
  TriowebError,
  Unsubscribed,
} from "./errors.js";
export { Ext, decode, encode } from "./msgpack.js";
