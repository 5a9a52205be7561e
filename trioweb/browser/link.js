// One connection: a WebSocket from its first step to its end, which is heard of once. A browser answers the pings
// of a server, but cannot ping itself, and a network that went away says nothing: so a link on which nothing was
// heard asks (`probe`), and is given up if still nothing is heard.

export class Link {
  #ws;
  #options;
  #timer = null;
  #openedAt = null;
  #heardAt = 0;
  #probe = null; // {buffered, due} while we wait for an answer
  #over = false;
  isReady = false; // for messages, also for ours: what introduces us has been sent

  // `options` are {connectTimeout, heartbeat: {interval, timeout} or null}, in ms, and what to call:
  // onOpen(), onMessage(data), onProbe(), onEnd({code, reason, openFor}).
  constructor(ws, options) {
    this.#ws = ws;
    this.#options = options;
    ws.binaryType = "arraybuffer";
    ws.onopen = () => this.#opened();
    ws.onmessage = ({ data }) => {
      this.#hear();
      options.onMessage(data);
    };
    ws.onclose = ({ code, reason }) => this.#end(code, reason);
    ws.onerror = () => {}; // it says nothing; the close that follows does
    this.#timer = setTimeout(() => this.#giveUp("no connection in time"), options.connectTimeout);
  }

  get isOpen() {
    return this.#openedAt !== null && !this.#over && this.#ws.readyState === 1;
  }

  // Bytes that the socket holds.
  get buffered() {
    return this.#ws.bufferedAmount;
  }

  // A socket that is closing drops it.
  send(data) {
    if (this.isOpen) this.#ws.send(data);
  }

  // From now on any message may be sent.
  ready() {
    this.isReady = true;
    this.#heardAt = performance.now();
    this.#waitForSilence();
  }

  // End it from our side. The end is heard of at once: the closing handshake is the browser's business.
  close(code, reason) {
    if (this.#over) return;
    this.#detach();
    this.#ws.close(code, reason);
    this.#end(code, reason);
  }

  // Find out whether the peer is still there: the network has changed, or the page was asleep.
  probe() {
    if (this.isOpen && this.isReady && this.#options.heartbeat && !this.#probe) this.#ask();
  }

  #opened() {
    this.#openedAt = performance.now();
    clearTimeout(this.#timer);
    this.#options.onOpen();
  }

  // Any message will do.
  #hear() {
    this.#heardAt = performance.now();
    if (!this.#probe) return;
    this.#probe = null;
    clearTimeout(this.#timer);
    this.#waitForSilence();
  }

  #waitForSilence() {
    if (!this.#options.heartbeat) return;
    const { interval } = this.#options.heartbeat;
    const rest = this.#heardAt + interval - performance.now();
    this.#timer = setTimeout(() => {
      if (performance.now() - this.#heardAt >= interval) this.#ask();
      else this.#waitForSilence();
    }, Math.max(rest, 1));
  }

  #ask() {
    clearTimeout(this.#timer);
    this.#options.onProbe();
    const { timeout } = this.#options.heartbeat;
    this.#probe = { buffered: this.buffered, due: performance.now() + timeout };
    this.#timer = setTimeout(() => this.#judge(), timeout);
  }

  #judge() {
    const { buffered, due } = this.#probe;
    const { timeout } = this.#options.heartbeat;
    this.#probe = null;
    // What is still leaving is a slow link, not a dead one; and who slept has not listened.
    if (this.buffered < buffered || performance.now() > due + timeout) return this.#ask();
    this.#giveUp("no answer to a ping");
  }

  #giveUp(reason) {
    this.#detach();
    // Before it is open, this is what makes the browser stop trying.
    this.#ws.close();
    this.#end(1006, reason);
  }

  #detach() {
    const ws = this.#ws;
    ws.onopen = ws.onmessage = ws.onclose = null;
  }

  #end(code, reason) {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#detach();
    this.#options.onEnd({
      code,
      reason,
      openFor: this.#openedAt === null ? 0 : performance.now() - this.#openedAt,
    });
  }
}
