// The items of a call, as they come. The peer may be so many items ahead of us and no more, so a slow reader slows
// the peer down and nothing is piled up here.

// Iterate over the items of the call that `start(options)` begins; the call's value is what the iterator returns.
// Whoever leaves the loop ends the call at the peer.
export async function* stream(start, { window = 32, ...options } = {}) {
  if (!(Number.isSafeInteger(window) && window > 0)) throw new RangeError("window: a whole number above 0");
  const items = [];
  let [granted, taken, end, wake] = [window, 0, null, () => {}];
  const onItem = (value) => {
    if (granted-- <= 0) return false;
    items.push(value);
    wake();
    return true;
  };
  const call = start({ ...options, window, onItem });
  const over = (outcome) => {
    end = outcome;
    wake();
  };
  call.result.then((value) => over({ value }), (error) => over({ error }));
  try {
    while (true) {
      while (items.length > 0) {
        const item = items.shift();
        // Half a window at a time: the peer need not stop, and not every item costs a message.
        if (++taken * 2 >= window && !call.isOver) {
          call.more(taken);
          granted += taken;
          taken = 0;
        }
        yield item;
      }
      if (end) {
        if ("error" in end) throw end.error;
        return end.value;
      }
      await new Promise((done) => (wake = done));
    }
  } finally {
    call.fail(new DOMException("the stream was left", "AbortError"));
  }
}
