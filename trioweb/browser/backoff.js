// How long to wait before the next attempt: exponential, capped, with full jitter. Drawn from 0 on, because the
// clients of a server that restarts then come back spread out, and half of them sooner than with a fixed wait.

const DEFAULTS = {
  base: 500, // ms; the bound after the first failure. A restart takes about so long
  factor: 2, // each failure in a row makes the bound so many times as large
  cap: 30_000, // ms; whoever waits for a service that comes back waits 15 seconds on average
  attempts: Infinity, // failures in a row after which the session gives up
  reset: 10_000, // ms; a connection that was open for so long counts as a success
  random: Math.random,
};

export class Backoff {
  #options;
  #failures = 0;

  constructor(options = {}) {
    this.#options = { ...DEFAULTS, ...options };
    const { base, factor, cap, attempts, reset } = this.#options;
    if (!(base > 0 && cap > 0 && attempts > 0 && reset >= 0 && factor >= 1 && Number.isFinite(cap))) {
      throw new RangeError("backoff: base, cap and attempts must be positive, factor at least 1, cap finite");
    }
  }

  // Failures in a row.
  get failures() {
    return this.#failures;
  }

  // The bound after the first failure, in milliseconds.
  get base() {
    return this.#options.base;
  }

  // Count a failure; return the milliseconds to wait, or null if there have been too many.
  next() {
    const { base, factor, cap, attempts, random } = this.#options;
    if (++this.#failures >= attempts) return null;
    return random() * Math.min(cap, base * factor ** (this.#failures - 1));
  }

  // A connection that was open for so many milliseconds has ended.
  ended(openFor) {
    // Without this bound a server that accepts and drops at once would meet no backoff.
    if (openFor >= this.#options.reset) this.#failures = 0;
  }
}
