// The arena's client. No dependencies; in the order of the sections: the step, the connection, the copy of the
// world, prediction, keys and touch, the texts on the page. How it looks is in index.html, which draws what is
// exported here (ES modules export live bindings: it always sees the value of the moment).
//
// Three times run side by side. The player's own orb is *ahead* of the server: every input is applied here at
// once and again, on top of the server's word, when that arrives. The other orbs are 100 ms *behind*, so that
// there is nearly always a state on either side to draw them between. The server's newest state is the truth.

const BEHIND = 100; // ms; two states and a little, at 20 states/s
const SILENCE = 6000; // ms without a message after which a connection counts as dead
const UNANSWERED = 60; // inputs on their way at most; beyond it we wait instead of running off into a guess
const $ = (selector) => document.querySelector(selector);

// ---- The step ----------------------------------------------------------------------------------------------

// The twin of `step` in world.py: the same operations in the same order, so that both get the same integers.
export function step(body, dx, dy, rules) {
  const [x, vx] = stepAxis(body.x, body.vx, dx, rules.width, rules);
  const [y, vy] = stepAxis(body.y, body.vy, dy, rules.height, rules);
  return { x, y, vx, vy };
}

function stepAxis(at, speed, wish, end, rules) {
  speed = Math.trunc(speed + (wish * rules.speed - speed) * rules.grip);
  at = Math.floor(at + speed / rules.tick_rate + 0.5);
  if (at < rules.radius) return [rules.radius, 0];
  if (at > end - rules.radius) return [end - rules.radius, 0];
  return [at, speed];
}

// ---- The connection ----------------------------------------------------------------------------------------

let status = "asking"; // -> connecting -> playing -> waiting -> connecting ...
let socket = null;
let attempt = 0; // since the last welcome
let retryAt = 0;
let trouble = ""; // why we are not playing
let heardAt = 0;
let rtt = null;
let bytes = 0;
let [bytesPerSecond, bytesSince] = [0, performance.now()];

// Whoever has the key may take the player over: this very tab, back from a broken network.
const key = crypto.getRandomValues(new Uint32Array(4)).join("-");
let name = remembered();

function remembered() {
  try { return localStorage.getItem("arena.name") ?? ""; } catch { return ""; } // storage is blocked
}

function remember(name) {
  try { localStorage.setItem("arena.name", name); } catch { /* then it asks again */ }
}

function connect() {
  status = "connecting";
  heardAt = performance.now();
  const ws = (socket = new WebSocket(`${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/play`));
  ws.onopen = () => send({ t: "join", name, key });
  ws.onmessage = ({ data }) => {
    if (ws !== socket) return;
    heardAt = performance.now();
    bytes += data.length;
    receive(JSON.parse(data));
  };
  ws.onclose = ({ code, reason }) => ws === socket && ended(code, reason);
}

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function ended(code, reason) {
  socket = null;
  // The server turned us away (1008, 4401), or the player lives on in another tab (4001): to come back
  // without being asked would be refused again, or would fight with that tab.
  if (code === 1008 || code === 4401 || code === 4001) return ask(reason || "The server said no");
  if (code === 1001 || code === 1012) trouble = "Server is restarting";
  else if (status === "playing") trouble = "Connection lost";
  else trouble ||= "Server cannot be reached"; // a failed attempt does not hide why it was made
  status = "waiting";
  // Exponential backoff with full jitter: when a server comes back, its clients do not come all at once.
  retryAt = performance.now() + Math.random() * Math.min(10_000, 500 * 2 ** attempt++);
}

function hurry() {
  if (status === "waiting") retryAt = 0;
}
addEventListener("online", hurry);
addEventListener("visibilitychange", () => document.hidden || hurry());

setInterval(() => {
  const now = performance.now();
  if (status === "waiting" && now >= retryAt) connect();
  // A network that went away says nothing, for minutes; so do not wait for it.
  else if (socket && now - heardAt > SILENCE) {
    socket.close();
    ended(1006, "");
  }
  showTrouble(now);
}, 100);

setInterval(() => {
  const now = performance.now();
  // Browsers have no WebSocket ping, so the round trip is measured with a message of ours.
  if (status === "playing") send({ t: "ping", at: now });
  bytesPerSecond = (bytes * 1000) / (now - bytesSince);
  [bytes, bytesSince] = [0, now];
}, 1000);

function receive(message) {
  if (message.t === "state") return applyState(message);
  if (message.t === "pong") rtt = (rtt ?? performance.now() - message.at) * 0.7 + (performance.now() - message.at) * 0.3;
  if (message.t === "error") console.warn("arena: ignored by the server:", message.reason);
  if (message.t === "welcome") {
    ({ id: myId, rules, name } = message);
    remember(name);
    [status, attempt, trouble, rtt] = ["playing", 0, "", null];
    [history, pending, own, seq, clock, offsets] = [[], [], null, 0, null, []];
    round++;
    held.clear();
    $("#join").hidden = true;
    $("#name").blur();
  }
}

// ---- The copy of the world ---------------------------------------------------------------------------------

export let rules = null;
export let myId = null;
export let round = 0; // counts welcomes: after each the world is another
export let history = []; // the states of the last second, oldest first; none is ever changed
let clock = null; // performance.now() at tick 0, as the fastest of the last messages suggest
let offsets = [];

function applyState({ n, since, tick, ack, v, w }) {
  const base = since ? history.at(-1) : { n: 0, players: new Map(), coins: new Map() };
  if (base?.n !== since) return socket.close(4000, "a state that builds on none of ours");
  const players = new Map(base.players);
  const coins = new Map(base.coins);
  for (const id of w.pg ?? []) players.delete(id);
  for (const id of w.cg ?? []) coins.delete(id);
  for (const row of w.p ?? []) players.set(row.i, { ...players.get(row.i), ...row });
  for (const [id, x, y, value] of w.c ?? []) coins.set(id, { x, y, value });
  history.push({ n, tick, players, coins });
  while (history.length > 2 && history[0].tick < tick - rules.tick_rate) history.shift();
  // Messages are late now and then, never early: the least offset of two seconds is the true one.
  offsets.push(performance.now() - (tick * 1000) / rules.tick_rate);
  if (offsets.length > 40) offsets.shift();
  const least = Math.min(...offsets);
  clock = clock === null ? least : clock + (least - clock) * 0.1;
  reconcile(players.get(myId), ack, v);
}

// The two states around the moment that is drawn, and how far it is from one to the other.
export function around(now) {
  const tick = ((now - BEHIND - clock) * rules.tick_rate) / 1000;
  let i = history.length - 1;
  while (i > 0 && history[i].tick > tick) i--;
  const [a, b] = [history[i], history[i + 1] ?? history[i]];
  const share = b.tick > a.tick ? Math.min(1, Math.max(0, (tick - a.tick) / (b.tick - a.tick))) : 1;
  return [a, b, share];
}

// ---- Prediction --------------------------------------------------------------------------------------------

export let own = null; // our body, all inputs applied
let before = null; // the same one step ago
let slip = { x: 0, y: 0 }; // what is left to show of the last correction
let pending = []; // inputs that the server has not acknowledged
let seq = 0;
let corrections = 0;
let [steppedAt, lag] = [0, 0];

// The server's word, and our unacknowledged inputs on top of it.
function reconcile(me, ack, [vx, vy]) {
  if (!me) return;
  pending = pending.filter((input) => input.seq > ack);
  let body = { x: me.x, y: me.y, vx, vy };
  for (const { dx, dy } of pending) body = step(body, dx, dy, rules);
  if (own) {
    const [ex, ey] = [own.x - body.x, own.y - body.y];
    if (ex || ey) corrections++;
    const near = Math.hypot(ex, ey) < 20 * rules.radius; // else jump: nobody wants to watch that glide
    slip = near ? { x: slip.x + ex, y: slip.y + ey } : { x: 0, y: 0 };
    before = { ...before, x: before.x - ex, y: before.y - ey };
  } else {
    before = body;
    slip = { x: 0, y: 0 };
  }
  own = body;
}

// Do the steps that are due, and say where to draw our orb: between the last two, less what a correction moved.
export function moveOwn(now) {
  if (status !== "playing") return { x: own.x + slip.x, y: own.y + slip.y };
  const left = Math.exp((steppedAt - now) / 80);
  slip = { x: slip.x * left, y: slip.y * left };
  const stepTime = 1000 / rules.tick_rate;
  // A tab that slept owes nothing: the server has let us stand still.
  lag = Math.min(lag + now - steppedAt, 5 * stepTime);
  steppedAt = now;
  for (; lag >= stepTime; lag -= stepTime) {
    const { dx, dy } = wish();
    before = own;
    const resting = !dx && !dy && !own.vx && !own.vy; // such a step changes nothing: not worth a message
    if (resting || pending.length > UNANSWERED || socket.bufferedAmount > 4096) continue;
    own = step(own, dx, dy, rules);
    pending.push({ seq: ++seq, dx, dy });
    send({ t: "input", seq, dx, dy });
  }
  const share = lag / stepTime;
  return {
    x: before.x + (own.x - before.x) * share + slip.x,
    y: before.y + (own.y - before.y) * share + slip.y,
  };
}

// ---- Keys and touch ----------------------------------------------------------------------------------------

const held = new Set();
export let stick = null; // { id, x, y: where the finger went down; dx, dy }
const KEYS = {
  ...{ KeyW: [0, -1], KeyA: [-1, 0], KeyS: [0, 1], KeyD: [1, 0] },
  ...{ ArrowUp: [0, -1], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowRight: [1, 0] },
};

addEventListener("keydown", (event) => {
  if (!(event.code in KEYS) || !$("#join").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  held.add(event.code);
});
addEventListener("keyup", (event) => held.delete(event.code));
addEventListener("blur", () => held.clear());

const canvas = $("canvas");
canvas.addEventListener("pointerdown", (event) => {
  if (stick) return;
  canvas.setPointerCapture(event.pointerId);
  stick = { id: event.pointerId, x: event.clientX, y: event.clientY, dx: 0, dy: 0 };
});
canvas.addEventListener("pointermove", (event) => {
  if (event.pointerId !== stick?.id) return;
  const [x, y] = [(event.clientX - stick.x) / 56, (event.clientY - stick.y) / 56];
  const length = Math.max(1, Math.hypot(x, y));
  [stick.dx, stick.dy] = Math.hypot(x, y) < 0.15 ? [0, 0] : [x / length, y / length];
});
for (const type of ["pointerup", "pointercancel"]) canvas.addEventListener(type, () => (stick = null));
canvas.addEventListener("contextmenu", (event) => event.preventDefault());

function wish() {
  let [x, y] = stick ? [stick.dx, stick.dy] : [0, 0];
  for (const code of held) [x, y] = [x + KEYS[code][0], y + KEYS[code][1]];
  const length = Math.max(1, Math.hypot(x, y));
  // Three digits are short to send; cut, not rounded, so that the length never passes 1.
  const cut = (value) => Math.trunc((value / length) * 1000) / 1000;
  return { dx: cut(x), dy: cut(y) };
}

// ---- The texts on the page ----------------------------------------------------------------------------------

function ask(reason = "") {
  status = "asking";
  $("#join").hidden = false;
  $("#join .reason").textContent = reason;
  $("#name").value = name;
  $("#name").select();
}

$("#join form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (status === "connecting") return;
  name = $("#name").value;
  $("#join .reason").textContent = "";
  [attempt, trouble] = [0, ""];
  connect();
});

function showTrouble(now) {
  document.body.classList.toggle("away", status !== "playing" && history.length > 0);
  $("#overlay").classList.toggle("good", status === "playing");
  $("#banner").hidden = !trouble || status === "asking";
  const seconds = Math.ceil((retryAt - now) / 1000);
  $("#banner span").textContent = status === "waiting" && seconds > 0 ? `${trouble}, reconnecting in ${seconds} s…` : `${trouble}, reconnecting…`;
}

function ranking() {
  return [...(history.at(-1)?.players ?? [])].sort(([, a], [, b]) => b.s - a.s || a.n.localeCompare(b.n));
}

setInterval(() => {
  const rows = ranking();
  for (const box of ["#mine", "#scores", "#overlay"]) $(box).hidden = !rows.length;
  if (!rows.length) return;
  const score = String(history.at(-1).players.get(myId)?.s ?? 0);
  const points = $("#points");
  if (points.textContent !== score) {
    points.textContent = score;
    points.classList.remove("bump");
    requestAnimationFrame(() => points.classList.add("bump"));
  }
  const list = rows.map(([id, row], i) => ({ id, rank: i + 1, ...row })).filter(({ id, rank }) => rank <= 8 || id === myId);
  $("#scores ol").replaceChildren(...list.map((row) => {
    const line = document.createElement("li");
    line.className = `${row.id === myId ? "me" : ""} ${row.b ? "bot" : ""}`;
    for (const [kind, text] of [["rank", row.rank], ["dot", ""], ["name", row.n], ["score", row.s]]) {
      line.append(Object.assign(document.createElement("span"), { className: kind, textContent: text }));
    }
    line.querySelector(".dot").style.background = `oklch(73% ${row.b ? 0.1 : 0.21} ${row.h})`;
    return line;
  }));
  $("#rtt").textContent = rtt === null ? "–" : Math.round(rtt);
  $("#tick").textContent = history.at(-1).tick;
  $("#rate").textContent = (bytesPerSecond / 1000).toFixed(1);
  $("#count").textContent = rows.length;
}, 200);

// For tests and for the curious: a look at the game, and no way to change it.
const shape = ([id, { x, y, s, n, b }]) => ({ id, name: n, x, y, score: s, bot: Boolean(b) });
window.arena = Object.freeze({
  step,
  get status() { return status; },
  get rules() { return rules; },
  get state() { return { number: history.at(-1)?.n ?? 0, tick: history.at(-1)?.tick ?? 0, round }; },
  get players() { return ranking().map(shape); },
  get coins() { return [...(history.at(-1)?.coins ?? [])].map(([id, coin]) => ({ id, ...coin })); },
  get me() { return this.players.find(({ id }) => id === myId) ?? null; }, // as the server sees it
  get own() { return own && { ...own, unanswered: pending.length, corrections }; }, // as predicted
  get rtt() { return rtt; },
});

ask();
