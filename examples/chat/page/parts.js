// What the page is made of: names with their colours, times, messages. All that people write becomes text, never markup.

const SAME_GROUP = 5 * 60; // seconds between messages that stand together

export function make(tag, className = "", content = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (content) element.textContent = content;
  return element;
}

export const icon = (name) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#${name}`);
  svg.append(use);
  return svg;
};

// Each name has a colour of its own.
function hue(name) {
  let sum = 0x811c9dc5; // FNV-1a: alike names differ in all bits
  for (const character of name) sum = Math.imul(sum ^ character.codePointAt(0), 0x01000193);
  return ((sum >>> 8) % 24) * 15;
}

export function face(name, element = make("span", "face")) {
  const words = name.split(/[\s._-]+/).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words.at(-1)].map((word) => [...word][0]) : [...name].slice(0, 2);
  element.textContent = letters.join("").toUpperCase();
  element.style.setProperty("--hue", hue(name));
  element.setAttribute("aria-hidden", "true");
  return element;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const when = ({ at }) => new Date(at * 1000);

function day(message) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - when(message).setHours(0, 0, 0, 0)) / 86_400_000);
  return days === 0 ? "Today" : days === 1 ? "Yesterday" : date.format(when(message));
}

// Web addresses become links; all else stays as it was written.
function write(element, words) {
  for (const part of words.split(/(https?:\/\/[^\s<>"]+[^\s<>".,;:!?)\]'])/)) {
    if (/^https?:\/\//.test(part)) {
      element.append(Object.assign(make("a", "", part), { href: part, target: "_blank", rel: "noopener noreferrer" }));
    } else element.append(part);
  }
  return element;
}

// ---- Messages ----

// One message; the first of a group says whose it is.
export function bubble(message, isFirst) {
  const row = make("li", `message${message.mine ? " mine" : ""}${isFirst ? " first" : ""}`);
  row.style.setProperty("--hue", hue(message.by));
  if (isFirst) {
    if (!message.mine) row.append(face(message.by));
    const meta = make("div", "meta");
    const time = make("time", "", clock.format(when(message)));
    time.dateTime = when(message).toISOString();
    meta.append(make("b", "", message.by), time);
    row.append(meta);
  } else row.append(make("span", "unseen", `${message.by}:`));
  const said = make("div", "bubble");
  said.dir = "auto";
  said.title = whole.format(when(message));
  row.append(write(said, message.text));
  return row;
}

// Put a message at the end of a log, with what stands between it and the one before.
export function append(log, message, before, firstNew) {
  if (!before || day(before) !== day(message)) log.append(make("li", "day", day(message)));
  if (message === firstNew) log.append(make("li", "new", "New"));
  if (message.note) return log.append(make("li", "note", message.note));
  const together = before && before.by === message.by && message.at - before.at < SAME_GROUP;
  log.append(bubble(message, !together || message === firstNew || day(before) !== day(message)));
}
