// The eight messages of the toolkit's protocol, in JSON and in MessagePack. What they mean stands in
// docs/reference/wire.md.

import { Malformed, MsgpackError, TooLarge } from "./errors.js";
import { decode, encode, encodeMap } from "./msgpack.js";

// ---- What a field may be -----------------------------------------------------------------------------------

const isText = (value) => typeof value === "string";
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
const isId = (value) => isCount(value) && value > 0;
const isKey = (value) => isText(value) && value.length > 0 && [...value].length <= 200;
const isSeconds = (value) => (typeof value === "number" || typeof value === "bigint") && value >= 0; // refuses NaN too
const isAny = () => true;

const REQUIRED = Symbol("required");

// For each type its fields in the order in which they are written: [name, what it may be, default]. A field
// whose default is null may be null.
const FIELDS = {
  call: [
    ["id", isId, REQUIRED],
    ["method", isText, REQUIRED],
    ["params", isAny, null],
    ["timeout", isSeconds, null],
    ["key", isKey, null],
    ["window", isCount, 0],
  ],
  cancel: [["id", isId, REQUIRED]],
  result: [["id", isId, REQUIRED], ["value", isAny, null]],
  item: [["id", isId, REQUIRED], ["value", isAny, null]],
  more: [["id", isId, REQUIRED], ["count", isCount, REQUIRED]],
  error: [
    ["id", isId, null],
    ["code", isText, REQUIRED],
    ["message", isText, ""],
    ["path", isText, null],
    ["data", isAny, null],
  ],
  notify: [["method", isText, REQUIRED], ["params", isAny, null]],
  event: [["topic", isText, REQUIRED], ["offset", isCount, 0], ["data", isAny, null]],
};

// ---- Writing -----------------------------------------------------------------------------------------------

// Text and bytes of a format: of one value, and of a map whose values are written already.
export const FORMATS = {
  json: {
    name: "json",
    value: (value) => JSON.stringify(value, binary) ?? "null",
    map: (entries) => `{${entries.map(([key, text]) => `"${key}":${text}`).join(",")}}`,
  },
  msgpack: { name: "msgpack", value: encode, map: encodeMap },
};

// JSON has no bytes: they become base64, as on the Python side.
function binary(key, value) {
  if (value instanceof ArrayBuffer) return base64(new Uint8Array(value));
  return ArrayBuffer.isView(value) ? base64(new Uint8Array(value.buffer, value.byteOffset, value.byteLength)) : value;
}

function base64(data) {
  let text = "";
  for (const byte of data) text += String.fromCharCode(byte);
  return btoa(text);
}

const textEncoder = new TextEncoder();

// A value that is written already: what waits in a queue is a copy, whose size is known. Throws TooLarge above
// `format.most` bytes, where there is such a bound.
export class Written {
  constructor(format, value) {
    this.data = format.value(value);
    const { length } = this.data;
    const isText = typeof this.data === "string";
    // A UTF-16 unit takes three bytes at most.
    if (length * (isText ? 3 : 1) <= format.most) return;
    const size = isText ? textEncoder.encode(this.data).length : length;
    if (size > format.most) throw new TooLarge(`${size} bytes; the server takes no more than ${format.most}`);
  }
}

// Return a message as text or bytes; fields that have their default are left out. Throws what the format has
// to say about a value that it cannot express: TypeError (JSON), MsgpackError.
export function write(format, message) {
  const entries = [["type", format.value(message.type)]];
  for (const [name, , initial] of FIELDS[message.type]) {
    const value = message[name];
    if (value instanceof Written) entries.push([name, value.data]);
    else if (value !== undefined && value !== initial) entries.push([name, format.value(value)]);
  }
  return format.map(entries);
}

// ---- Reading -----------------------------------------------------------------------------------------------

// Return what a peer said, with every field that its type has. Throws Malformed, and nothing else.
export function read(data) {
  const found = parse(data);
  if (found === null || typeof found !== "object" || Array.isArray(found)) {
    throw new Malformed("a message that is no map");
  }
  const { type } = found;
  if (type === undefined) throw new Malformed("a message without a type");
  if (typeof type !== "string") throw new Malformed("a type that is no text", { path: "$.type" });
  if (!Object.hasOwn(FIELDS, type)) {
    throw new Malformed(`unknown type ${JSON.stringify(type.slice(0, 40))}`, { code: "unknown-type", path: "$.type" });
  }
  const message = { type };
  for (const [name, fits, initial] of FIELDS[type]) {
    const value = found[name];
    if (value === undefined) {
      if (initial === REQUIRED) throw new Malformed(`a ${type} without ${name}`, consequences(found));
      message[name] = initial;
    } else if (fits(value) || (initial === null && value === null)) {
      message[name] = fits === isSeconds && value !== null ? Number(value) : value;
    } else {
      throw new Malformed(`not a valid ${name}`, { path: `$.${name}`, ...consequences(found) });
    }
  }
  return message;
}

function parse(data) {
  try {
    return typeof data === "string" ? JSON.parse(data) : decode(data);
  } catch (error) {
    if (error instanceof MsgpackError) throw new Malformed(`no MessagePack: ${error.message}`);
    throw new Malformed("no JSON"); // or nested more deeply than the engine follows
  }
}

// A malformed call is answered by its id, and a malformed answer fails the call that it was meant for.
function consequences({ type, id }) {
  if (!isId(id)) return {};
  if (type === "call") return { answers: id };
  return ["result", "item", "error"].includes(type) ? { fails: id } : {};
}
