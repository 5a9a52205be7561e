// The queue of outgoing messages. It outlives connections: what was put in while there was none, or while one was
// slow, leaves in order when there is room. What belongs to one connection (answers) ends with it.
//
// An entry is {size, write(), lost(error)}: `write` returns the message when it leaves, `lost` hears that it never
// will. An entry with a `link` is an answer on that connection.

import { QueueFull } from "./errors.js";

// Bytes that the socket may hold. Beyond it what is sent waits here, where it can be taken back.
const SOCKET_BYTES = 2 ** 18;
// ms; a socket does not tell when it has room again. 256 KiB each time is more than links carry.
const LOOK_AGAIN = 10;
const OVERFLOWS = ["fail", "drop-oldest", "drop-newest"];

export class Outbox {
  #limits;
  #entries = new Set(); // in order; any of them can be taken out at once
  #bytes = 0;
  #answers = { items: 0, bytes: 0 };
  #link = null;
  #timer = null;
  #waiters = [];
  dropped = 0;

  constructor({ items = 1024, bytes = 2 ** 20, overflow = "fail" } = {}) {
    if (!(items > 0 && bytes > 0)) throw new RangeError("queue: items and bytes must be positive");
    if (!OVERFLOWS.includes(overflow)) throw new RangeError(`queue: overflow is one of ${OVERFLOWS.join(", ")}`);
    this.#limits = { items, bytes, overflow };
  }

  get items() {
    return this.#entries.size;
  }

  get bytes() {
    return this.#bytes;
  }

  // Send an entry now, or put it in the queue. Throws QueueFull where the policy is to fail.
  post(entry) {
    if (this.#isClear()) return this.#send(entry);
    if (!this.#isFull(entry.size)) return this.#add(entry);
    const { overflow } = this.#limits;
    const full = new QueueFull(`more than ${this.#limits.items} messages or ${this.#limits.bytes} bytes are waiting`);
    if (overflow === "fail") throw full;
    if (overflow === "drop-oldest") this.#makeRoom(entry.size, full);
    if (!this.#isFull(entry.size)) return this.#add(entry);
    this.dropped++;
    entry.lost(full);
  }

  // Send an answer on a connection. Answers have room of their own, as much again: none is ever dropped, and who
  // asks for more than that without reading it loses the connection.
  answer(link, size, write) {
    if (link !== this.#link) return;
    const entry = { link, size, write };
    if (this.#isClear()) return this.#send(entry);
    if (this.#answers.items >= this.#limits.items || this.#answers.bytes >= this.#limits.bytes) {
      return link.close(4013, "slow consumer");
    }
    this.#add(entry);
  }

  // Resolves when a connection's answers have room: false if it is gone.
  async roomFor(link) {
    while (link === this.#link && !this.#isClear()) {
      await new Promise((done) => {
        this.#waiters.push(done);
        this.#lookAgain();
      });
    }
    return link === this.#link;
  }

  // Put entries before all others, whatever there is room for: they have been in here once.
  putBack(entries) {
    const others = this.#entries;
    this.#entries = new Set([...entries, ...others]);
    for (const entry of entries) this.#bytes += entry.size;
  }

  // Take an entry out; false if it has left.
  remove(entry) {
    if (!this.#entries.delete(entry)) return false;
    if (entry.link) {
      this.#answers.items--;
      this.#answers.bytes -= entry.size;
    } else this.#bytes -= entry.size;
    return true;
  }

  // From now on messages leave by this connection, as soon as it is ready for them.
  open(link) {
    this.#link = link;
  }

  // Send what there is room for.
  flush() {
    clearTimeout(this.#timer);
    this.#timer = null;
    for (const entry of this.#entries) {
      if (!this.#hasRoom()) break;
      this.remove(entry);
      this.#send(entry);
    }
    this.#lookAgain();
    if (this.#isClear()) this.#wake();
  }

  // The connection is gone, and its answers with it.
  shut() {
    this.#link = null;
    clearTimeout(this.#timer);
    this.#timer = null;
    for (const entry of this.#entries) if (entry.link) this.remove(entry);
    this.#wake();
  }

  // Nothing will ever leave again.
  end(error) {
    this.shut();
    for (const entry of [...this.#entries]) {
      this.remove(entry);
      entry.lost(error);
    }
  }

  #isClear() {
    return this.#entries.size === 0 && this.#hasRoom();
  }

  #hasRoom() {
    const link = this.#link;
    return link !== null && link.isReady && link.isOpen && link.buffered < SOCKET_BYTES;
  }

  #isFull(size) {
    const items = this.#entries.size - this.#answers.items;
    // One that is larger than all the room passes where it is alone.
    return items >= this.#limits.items || (items > 0 && this.#bytes + size > this.#limits.bytes);
  }

  #makeRoom(size, error) {
    for (const entry of this.#entries) {
      if (!this.#isFull(size)) return;
      if (entry.link) continue;
      this.remove(entry);
      this.dropped++;
      entry.lost(error);
    }
  }

  #add(entry) {
    this.#entries.add(entry);
    if (entry.link) {
      this.#answers.items++;
      this.#answers.bytes += entry.size;
    } else this.#bytes += entry.size;
    this.#lookAgain();
  }

  #send(entry) {
    this.#link.send(entry.write());
  }

  #lookAgain() {
    const waits = this.#entries.size > 0 || this.#waiters.length > 0;
    if (waits && this.#link !== null) this.#timer ??= setTimeout(() => this.flush(), LOOK_AGAIN);
  }

  #wake() {
    for (const done of this.#waiters.splice(0)) done();
  }
}
