// What goes wrong, as classes. The tree: Error > TriowebError > all the others, and CallError > CallTimeout.

// The base of all that a session raises itself. An AbortSignal raises its own reason.
export class TriowebError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

// A call was answered with an error. `code` is one of those in wire.md, or the method's own. A method of
// `session.methods` throws one to answer with it.
export class CallError extends TriowebError {
  constructor(code, message = "", { path = null, data = null, cause } = {}) {
    super(message || code, cause === undefined ? undefined : { cause });
    this.code = code;
    this.path = path;
    this.data = data;
  }
}

// The call's time is over, by our clock or by the peer's.
export class CallTimeout extends CallError {
  constructor(message = "the call took too long", details) {
    super("timeout", message, details);
  }
}

// The link broke while the call was under way: nobody knows whether it was run.
export class CallLost extends TriowebError {
  constructor(message = "the connection was lost") {
    super(message);
  }
}

// The session is over: we closed it, or `close` has a terminal code, or the attempts are used up.
export class SessionClosed extends TriowebError {
  constructor(message, close) {
    super(message);
    this.close = close; // {code, reason}
  }
}

// The queue of outgoing messages is full.
export class QueueFull extends TriowebError {}

// A value is larger than the server takes, which would end the session.
export class TooLarge extends TriowebError {}

// The server ended a subscription, or refused it.
export class Unsubscribed extends TriowebError {
  constructor(topic, code, message = "") {
    super(message || `the subscription to ${topic} has ended: ${code}`);
    this.topic = topic;
    this.code = code;
  }
}

// The peer said what the protocol does not allow.
export class Malformed extends TriowebError {
  constructor(message, { code = "invalid", path = null, answers = null, fails = null } = {}) {
    super(path ? `${message} at ${path}` : message);
    this.answer = { type: "error", id: answers, code, message, path };
    this.fails = fails; // the id of our own call that the message was about
  }
}

// Bytes that are no MessagePack, or a value that has no form in it.
export class MsgpackError extends TriowebError {}
