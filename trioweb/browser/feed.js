// What has come and is not taken yet: a queue with one reader and a bound, whose end comes behind all items.

export class Feed {
  #limits;
  #items = []; // {item, size}
  #bytes = 0;
  #waiters = [];
  #end = null; // {error} once nothing more will come

  constructor({ items = 1024, bytes = 2 ** 20 } = {}) {
    if (!(items > 0 && bytes > 0)) throw new RangeError("buffer: items and bytes must be positive");
    this.#limits = { items, bytes };
  }

  get length() {
    return this.#items.length;
  }

  // How many items may still come.
  get room() {
    return this.#bytes < this.#limits.bytes ? Math.max(this.#limits.items - this.#items.length, 0) : 0;
  }

  // Whether it is at least half empty.
  get isRoomy() {
    return this.#items.length * 2 <= this.#limits.items && this.#bytes * 2 <= this.#limits.bytes;
  }

  get last() {
    return this.#items.at(-1)?.item;
  }

  get isOver() {
    return this.#end !== null;
  }

  // The bound is the caller's to ask for: `room`.
  push(item, size) {
    if (this.#end) return;
    const waiter = this.#waiters.shift();
    if (waiter) return waiter.resolve(item);
    this.#items.push({ item, size });
    this.#bytes += size;
  }

  // Take the next item, or undefined if there is none.
  shift() {
    const entry = this.#items.shift();
    if (!entry) return undefined;
    this.#bytes -= entry.size;
    return entry.item;
  }

  clear() {
    this.#items = [];
    this.#bytes = 0;
  }

  // Resolves to the next item, or to undefined at the end; rejects at an end with an error.
  next() {
    const item = this.shift();
    if (item !== undefined) return Promise.resolve(item);
    if (this.#end) return this.#end.error ? Promise.reject(this.#end.error) : Promise.resolve(undefined);
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  end(error = null) {
    if (this.#end) return;
    this.#end = { error };
    for (const { resolve, reject } of this.#waiters.splice(0)) {
      if (error) reject(error);
      else resolve(undefined);
    }
  }
}
