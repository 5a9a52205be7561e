// How the chat looks, and what its buttons do. What is going on is in chat.js.

import { Chat } from "./chat.js";
import { append, bubble, face, icon, make } from "./parts.js";

const $ = (id) => document.getElementById(id);
const app = $("app");
const scroll = $("scroll");
const text = $("text");

let chat = null;
let countdown = null;
let wasAtEnd = true;

const list = (names) => new Intl.ListFormat("en").format(names);

// ---- Messages ----

function drawLog() {
  const { messages, firstNew } = chat.current;
  const log = $("log");
  log.parentElement.ariaBusy = "true"; // it is not news to whom it is read out
  log.replaceChildren();
  messages.forEach((message, at) => append(log, message, messages[at - 1], firstNew));
  log.parentElement.ariaBusy = "false";
}

function drawOutgoing() {
  const rows = chat.outgoing.filter((one) => one.to === chat.current?.name).map((one, at) => {
    const row = bubble({ ...one, by: chat.me, mine: true }, false);
    row.classList.toggle("first", at === 0 && !chat.current.messages.at(-1)?.mine);
    row.classList.toggle("failed", one.state === "failed");
    const words = { waiting: chat.connection.state === "open" ? "" : "Leaves when the connection is back", failed: `Not sent: ${one.why}` };
    const status = make("div", "status", words[one.state] ?? "");
    if (one.state === "failed") {
      const button = make("button", "", "Discard");
      button.onclick = () => chat.discard(one.key);
      status.append(button);
    }
    if (status.textContent) row.append(status);
    return row;
  });
  $("outgoing").replaceChildren(...rows);
}

const isAtEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 90;
const toEnd = () => (scroll.scrollTop = scroll.scrollHeight);

// Change what is shown, and stay where we are: at the end, or at what is being read.
function staying(change) {
  const stays = isAtEnd();
  change();
  if (stays) toEnd();
  $("to-end").hidden = isAtEnd();
}

function drawAround() {
  const { current } = chat;
  const isEmpty = current.messages.length === 0 && chat.outgoing.every((one) => one.to !== current.name);
  $("earlier").hidden = !current.feed.hasEarlier;
  $("empty").hidden = !isEmpty;
  $("empty").textContent = current.isRoom ? "Nobody has said anything here yet." : `This is between you and ${current.title}.`;
}

// ---- Places and people ----

function place(conversation) {
  const { name, title, isRoom, unread } = conversation;
  const item = make("li");
  const button = make("button", unread ? "unread" : "");
  button.dataset.place = name;
  if (isRoom) button.append(Object.assign(make("span", "hash", "#"), { ariaHidden: "true" }), make("span", "label", title.slice(1)));
  else {
    const own = face(title);
    own.classList.toggle("away", !chat.people.has(title));
    button.append(own, make("span", "label", title));
  }
  if (unread) {
    const badge = make("span", "badge", unread > 99 ? "99+" : String(unread));
    badge.append(make("span", "unseen", " unread"));
    button.append(badge);
  }
  if (conversation === chat.current) button.setAttribute("aria-current", "page");
  button.onclick = () => go(conversation);
  item.append(button);
  return item;
}

// Lists are drawn anew as a whole; who stands on a button in one stays there.
function fill(element, items) {
  const at = element.contains(document.activeElement) ? document.activeElement.dataset.place : null;
  element.replaceChildren(...items);
  if (at) element.querySelector(`[data-place="${CSS.escape(at)}"]`)?.focus();
}

function drawPlaces() {
  const all = [...chat.conversations.values()];
  const letters = all.filter((one) => !one.isRoom);
  fill($("rooms"), all.filter((one) => one.isRoom).map(place));
  fill($("private"), letters.map(place));
  $("no-private").hidden = letters.length > 0;
  const unread = all.reduce((sum, one) => sum + one.unread, 0);
  document.title = `${unread ? `(${unread}) ` : ""}${chat.current?.title ?? "Chat"} · Chat`;
  $("open-places").querySelector(".dot").hidden = !all.some((one) => one.unread && one !== chat.current);
}

function person([name, { moderator }]) {
  const isMe = name === chat.me;
  const item = make("li");
  const button = make("button", `person${isMe ? " me" : ""}`);
  button.dataset.place = `person ${name}`;
  button.disabled = isMe;
  button.append(face(name), make("span", "label", isMe ? `${name} (you)` : name));
  if (moderator && !isMe) button.append(Object.assign(make("span", "tag", "mod"), { title: "Moderator" }));
  if (!isMe) button.title = `Talk to ${name} in private`;
  button.onclick = () => go(chat.with(name));
  item.append(button);
  if (chat.isModerator && !isMe && !moderator) {
    const kick = make("button", "kick");
    kick.ariaLabel = `Remove ${name}`;
    kick.append(icon("close-icon"));
    kick.onclick = () => askToKick(name);
    item.append(kick);
  }
  return item;
}

function drawPeople() {
  if (!chat.current) return;
  const { isRoom, title } = chat.current;
  const inOrder = (some) => [...some].sort(([a], [b]) => a.localeCompare(b));
  const here = isRoom ? inOrder(chat.here) : inOrder(chat.people);
  const elsewhere = isRoom ? inOrder(chat.people).filter(([name]) => !chat.here.has(name)) : [];
  $("here-title").textContent = isRoom ? `In this room · ${here.length}` : `In the chat · ${here.length}`;
  fill($("here"), here.map(person));
  fill($("elsewhere"), elsewhere.map(person));
  $("elsewhere-title").hidden = elsewhere.length === 0;
  $("elsewhere-title").textContent = `Elsewhere · ${elsewhere.length}`;
  const count = here.length === 1 ? "1 person here" : `${here.length} people here`;
  $("subtitle").textContent = isRoom ? count : chat.people.has(title) ? "Here now" : "Away; will find your message";
  drawPlaces();
}

function drawTyping() {
  const names = [...chat.current.typing.keys()];
  const words = names.length > 3 ? "Several people are typing" : `${list(names)} ${names.length > 1 ? "are" : "is"} typing`;
  $("typing").replaceChildren(...(names.length ? [make("i"), make("i"), make("i"), words] : []));
}

async function askToKick(name) {
  const dialog = $("kick");
  $("kick-title").textContent = `Remove ${name}?`;
  $("why").value = dialog.returnValue = "";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  if (dialog.returnValue !== "kick") return;
  try {
    await chat.kick(name, $("why").value.trim());
  } catch (error) {
    hurry(error.message);
  }
}

// ---- Where we are ----

function go(conversation) {
  if (chat.current) chat.current.draft = text.value;
  show(null);
  chat.open(conversation);
  text.value = conversation.draft;
  text.placeholder = `Message ${conversation.title}`;
  $("title").textContent = conversation.title;
  grow();
  if (matchMedia("(hover: hover)").matches) text.focus();
}

// Show one of the drawers of a narrow window, or none.
function show(name) {
  for (const one of ["places", "people"]) {
    app.classList.toggle(one, one === name);
    $(`open-${one}`).ariaExpanded = String(one === name);
  }
  if (name) $(name).querySelector("button")?.focus();
}

function grow() {
  const rest = chat.maxText - text.value.length;
  $("left").hidden = rest > 200;
  $("left").textContent = rest;
  $("composer").lastElementChild.disabled = !text.value.trim();
  if (CSS.supports("field-sizing", "content")) return;
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
}

function submit() {
  if (!text.value.trim()) return;
  chat.say(text.value.trim());
  text.value = "";
  grow();
  toEnd();
}

function drawConnection({ state, delay = 0 }) {
  const words = { connecting: "Connecting", open: "Connected", waiting: "Offline", closed: "Signed out" };
  $("state").className = state;
  $("state").lastElementChild.textContent = words[state];
  clearInterval(countdown);
  const due = performance.now() + delay;
  const say = () => {
    const rest = Math.ceil((due - performance.now()) / 1000);
    $("next").textContent = rest > 0 ? `Next attempt in ${rest} s.` : "Trying again …";
  };
  if (state === "open") $("banner").hidden = true;
  else if (state === "waiting") {
    say();
    $("banner").hidden = false;
    countdown = setInterval(say, 1000);
  }
}

let hurryTimer = null;
function hurry(words) {
  $("hurry").textContent = words;
  $("hurry").hidden = false;
  clearTimeout(hurryTimer);
  hurryTimer = setTimeout(() => ($("hurry").hidden = true), 4000);
}

// ---- The door ----

function door(title, words, reason = "") {
  app.hidden = true;
  $("door").hidden = false;
  $("door-title").textContent = title;
  $("door-text").textContent = words;
  $("reason").textContent = reason;
  $("reason").hidden = !reason;
  $("door").querySelector(".primary").disabled = false;
  document.title = "Chat";
  $("name").value = localStorage.getItem("chat.name") ?? $("name").value;
  $("name").focus();
}

function enter(name) {
  const mine = (chat = new Chat(name, sessionStorage.getItem("chat.word") ?? ""));
  const join = $("door").querySelector(".primary");
  join.disabled = true;
  setTimeout(() => {
    if (chat !== mine || mine.me || mine.connection.state === "closed") return;
    door("Chat", "Joining …");
    join.disabled = true;
  }, 500);
  const on = (type, listener) => mine.addEventListener(type, ({ detail }) => chat === mine && listener(detail));
  on("welcome", () => {
    localStorage.setItem("chat.name", chat.me);
    sessionStorage.removeItem("chat.word");
    $("door").hidden = true;
    app.hidden = false;
    face(chat.me, $("own-face"));
    $("own-name").textContent = chat.me;
    text.maxLength = chat.maxText;
    const last = sessionStorage.getItem("chat.place") ?? "";
    const [first] = chat.conversations.values();
    go(chat.conversations.get(last) ?? (last[0] === "@" && last.slice(1) !== chat.me ? chat.with(last.slice(1)) : first));
  });
  on("refused", ({ reason }) => {
    sessionStorage.removeItem("chat.word");
    door("Chat", "Choose a name to come in.", reason);
  });
  on("kicked", ({ reason }) => door("You were removed", "You can come back in a minute.", `Removed by ${reason}`));
  on("ended", ({ reason }) => door("The chat has ended", "Join to come back.", reason));
  on("connection", (detail) => {
    drawConnection(detail);
    if (chat.me) drawOutgoing();
  });
  on("people", drawPeople);
  on("conversations", drawPlaces);
  on("typing", drawTyping);
  on("outgoing", () => staying(() => (drawOutgoing(), drawAround())));
  on("hurry", ({ after }) => hurry(`Not so fast: the next one leaves in ${Math.ceil(after)} s.`));
  on("message", ({ conversation, message }) => {
    if (conversation !== chat.current) return;
    staying(() => (append($("log"), message, conversation.messages.at(-2), conversation.firstNew), drawAround()));
  });
  on("reload", ({ conversation }) => {
    if (conversation !== chat.current) return;
    const isSame = $("log").dataset.place === conversation.name;
    const fromEnd = scroll.scrollHeight - scroll.scrollTop;
    $("log").dataset.place = conversation.name;
    sessionStorage.setItem("chat.place", conversation.name);
    drawLog();
    drawOutgoing();
    drawAround();
    drawPlaces();
    if (isSame && conversation.messages.length) scroll.scrollTop = scroll.scrollHeight - fromEnd;
    else toEnd();
    const divider = $("log").querySelector(".new");
    if (divider && !isSame) scroll.scrollTop = divider.offsetTop - scroll.clientHeight / 3;
    $("to-end").hidden = isAtEnd();
  });
}

// ---- What people do ----

$("door").onsubmit = (event) => {
  event.preventDefault();
  enter($("name").value);
};
$("composer").onsubmit = (event) => {
  event.preventDefault();
  submit();
};
text.oninput = () => {
  grow();
  if (text.value.trim()) chat.typing();
};
text.onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
};
scroll.onscroll = () => ($("to-end").hidden = wasAtEnd = isAtEnd());
new ResizeObserver(() => wasAtEnd && toEnd()).observe(scroll);
$("to-end").onclick = toEnd;
$("earlier").onclick = () => chat.earlier(chat.current);
$("keep").onclick = () => $("kick").close();
$("retry").onclick = () => chat.retry();
$("leave").onclick = () => {
  chat.leave();
  localStorage.removeItem("chat.name");
  $("name").value = "";
  door("Goodbye", "Your name stays yours in this browser.");
};
$("open-places").onclick = () => show("places");
$("open-people").onclick = () => {
  if (matchMedia("(max-width: 1000px)").matches) show("people");
  else $("open-people").ariaExpanded = String(!app.classList.toggle("no-people"));
};
for (const one of document.querySelectorAll("[data-close]")) one.onclick = () => show(null);
addEventListener("focus", () => chat?.me && chat.read());
addEventListener("keydown", (event) => {
  if (event.key === "Escape") show(null);
  if (!event.altKey || !["ArrowUp", "ArrowDown"].includes(event.key) || !chat?.me) return;
  event.preventDefault();
  const all = [...chat.conversations.values()];
  const at = all.indexOf(chat.current) + (event.key === "ArrowDown" ? 1 : -1);
  go(all.at(at % all.length));
});

// The moderators' link: its word is used once, and does not stay in the address.
function takeWord() {
  if (!location.hash.startsWith("#word=")) return;
  sessionStorage.setItem("chat.word", location.hash.slice(6));
  history.replaceState(null, "", location.pathname);
  if (chat) location.reload();
}

addEventListener("hashchange", takeWord);
takeWord();
const known = localStorage.getItem("chat.name");
if (known) enter(known);
else door("Chat", "Rooms and private messages of which nobody misses any.");
