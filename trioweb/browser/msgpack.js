// MessagePack: the values of JSON, and beside them bytes, timestamps and 64-bit integers.
// https://github.com/msgpack/msgpack/blob/master/spec.md
//
// In:  null, booleans, numbers, bigint (64 bits), strings, arrays, plain objects, Uint8Array and the other
//      views, ArrayBuffer, Date (a timestamp), Ext. A property that is undefined is left out, as in JSON.
// Out: the same. An integer that a number does not hold exactly is a bigint; bytes are a Uint8Array of their
//      own; the keys of a map are strings, and become so where they are integers.

import { MsgpackError } from "./errors.js";

// Values inside of values. Nobody honest comes near, and JavaScript's own stack is far away.
const MAX_DEPTH = 128;
const TIMESTAMP = -1;

// A value of an extension type that nobody here knows.
export class Ext {
  constructor(type, data) {
    this.type = type; // from -128 to 127; those below 0 are the specification's own
    this.data = data; // a Uint8Array
  }
}

// ---- Writing -----------------------------------------------------------------------------------------------

const textEncoder = new TextEncoder();

// Return a value's bytes. Throws MsgpackError for what has no form: functions, a Map, an invalid Date,
// integers beyond 64 bits, values that are nested deeper than 128.
export function encode(value) {
  const writer = new Writer();
  writer.value(value, 0);
  return writer.bytes();
}

class Writer {
  #data = new Uint8Array(256);
  #view = new DataView(this.#data.buffer);
  #at = 0;

  bytes() {
    return this.#data.slice(0, this.#at);
  }

  value(value, depth) {
    if (value === null || value === undefined) return this.#byte(0xc0);
    if (value === false) return this.#byte(0xc2);
    if (value === true) return this.#byte(0xc3);
    if (typeof value === "number") return this.#number(value);
    if (typeof value === "string") return this.#text(value);
    if (typeof value === "bigint") return this.#bigint(value);
    if (typeof value !== "object") throw new MsgpackError(`cannot write a ${typeof value}`);
    if (depth >= MAX_DEPTH) throw new MsgpackError(`nested deeper than ${MAX_DEPTH}`);
    if (Array.isArray(value)) {
      this.count(value.length, 0x90, 15, 0xdc);
      for (const item of value) this.value(item, depth + 1);
    } else if (ArrayBuffer.isView(value)) {
      this.#binary(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
    } else if (value instanceof ArrayBuffer) {
      this.#binary(new Uint8Array(value));
    } else if (value instanceof Date) {
      this.#timestamp(value.getTime());
    } else if (value instanceof Ext) {
      this.#ext(value.type, value.data);
    } else if (value instanceof Map || value instanceof Set) {
      throw new MsgpackError(`cannot write a ${value.constructor.name}; make it an object or an array`);
    } else {
      const keys = Object.keys(value).filter((key) => value[key] !== undefined);
      this.count(keys.length, 0x80, 15, 0xde);
      for (const key of keys) {
        this.#text(key);
        this.value(value[key], depth + 1);
      }
    }
  }

  // The head of an array or a map: its length in itself up to `least`, else in 16 or 32 bits behind `wide`.
  count(length, short, least, wide) {
    if (length <= least) return this.#byte(short | length);
    if (length < 2 ** 16) return this.#short(wide, length);
    this.#long(wide + 1, length);
  }

  raw(data) {
    this.#room(data.length);
    this.#data.set(data, this.#at);
    this.#at += data.length;
  }

  #number(value) {
    // -0 is a float: as an integer it would lose its sign.
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
      this.#room(9);
      this.#view.setUint8(this.#at, 0xcb);
      this.#view.setFloat64(this.#at + 1, value);
      this.#at += 9;
    } else if (value >= 0) {
      if (value < 2 ** 7) this.#byte(value);
      else if (value < 2 ** 8) this.#pair(0xcc, value);
      else if (value < 2 ** 16) this.#short(0xcd, value);
      else if (value < 2 ** 32) this.#long(0xce, value);
      else this.#quad(0xcf, BigInt(value));
    } else if (value >= -(2 ** 5)) this.#byte(value & 0xff);
    else if (value >= -(2 ** 7)) this.#pair(0xd0, value & 0xff);
    else if (value >= -(2 ** 15)) this.#short(0xd1, value & 0xffff);
    else if (value >= -(2 ** 31)) this.#long(0xd2, value >>> 0);
    else this.#quad(0xd3, BigInt(value));
  }

  #bigint(value) {
    if (Number.isSafeInteger(Number(value))) return this.#number(Number(value));
    if (value > 0n && BigInt.asUintN(64, value) === value) return this.#quad(0xcf, value);
    if (BigInt.asIntN(64, value) === value) return this.#quad(0xd3, value);
    throw new MsgpackError("an integer beyond 64 bits");
  }

  #text(text) {
    // A UTF-16 unit takes three bytes at most; what is short enough for one head is written at once.
    if (text.length * 3 > 31) {
      const data = textEncoder.encode(text);
      const length = data.length;
      if (length < 32) this.#byte(0xa0 | length);
      else if (length < 2 ** 8) this.#pair(0xd9, length);
      else if (length < 2 ** 16) this.#short(0xda, length);
      else this.#long(0xdb, length);
      return this.raw(data);
    }
    this.#room(32);
    const { written } = textEncoder.encodeInto(text, this.#data.subarray(this.#at + 1));
    this.#data[this.#at] = 0xa0 | written;
    this.#at += written + 1;
  }

  #binary(data) {
    if (data.length < 2 ** 8) this.#pair(0xc4, data.length);
    else if (data.length < 2 ** 16) this.#short(0xc5, data.length);
    else this.#long(0xc6, data.length);
    this.raw(data);
  }

  #ext(type, data) {
    const { length } = data;
    const fixed = [1, 2, 4, 8, 16].indexOf(length);
    if (fixed >= 0) this.#byte(0xd4 + fixed);
    else if (length < 2 ** 8) this.#pair(0xc7, length);
    else if (length < 2 ** 16) this.#short(0xc8, length);
    else this.#long(0xc9, length);
    this.#byte(type & 0xff);
    this.raw(data);
  }

  #timestamp(time) {
    if (Number.isNaN(time)) throw new MsgpackError("an invalid Date");
    const seconds = Math.floor(time / 1000);
    const nanoseconds = (time - seconds * 1000) * 1e6;
    const early = seconds < 0 || seconds >= 2 ** 34;
    const view = new DataView(new ArrayBuffer(early ? 12 : nanoseconds || seconds >= 2 ** 32 ? 8 : 4));
    if (early) {
      view.setUint32(0, nanoseconds);
      view.setBigInt64(4, BigInt(seconds));
    } else if (view.byteLength === 8) {
      view.setBigUint64(0, (BigInt(nanoseconds) << 34n) | BigInt(seconds));
    } else {
      view.setUint32(0, seconds);
    }
    this.#ext(TIMESTAMP, new Uint8Array(view.buffer));
  }

  #room(count) {
    const wanted = this.#at + count;
    if (wanted <= this.#data.length) return;
    const larger = new Uint8Array(Math.max(wanted, this.#data.length * 2));
    larger.set(this.#data.subarray(0, this.#at));
    this.#data = larger;
    this.#view = new DataView(larger.buffer);
  }

  #byte(value) {
    this.#room(1);
    this.#data[this.#at++] = value;
  }

  #pair(head, value) {
    this.#byte(head);
    this.#byte(value);
  }

  #short(head, value) {
    this.#room(3);
    this.#view.setUint8(this.#at, head);
    this.#view.setUint16(this.#at + 1, value);
    this.#at += 3;
  }

  #long(head, value) {
    this.#room(5);
    this.#view.setUint8(this.#at, head);
    this.#view.setUint32(this.#at + 1, value);
    this.#at += 5;
  }

  #quad(head, value) {
    this.#room(9);
    this.#view.setUint8(this.#at, head);
    this.#view.setBigUint64(this.#at + 1, BigInt.asUintN(64, value));
    this.#at += 9;
  }
}

// Return the bytes of a map whose values are bytes already.
export function encodeMap(entries) {
  const writer = new Writer();
  writer.count(entries.length, 0x80, 15, 0xde);
  for (const [key, data] of entries) {
    writer.value(key, 0);
    writer.raw(data);
  }
  return writer.bytes();
}

// ---- Reading -----------------------------------------------------------------------------------------------

const textDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

// Return the value in some bytes, which hold nothing else. Throws MsgpackError.
export function decode(data) {
  const reader = new Reader(data instanceof Uint8Array ? data : new Uint8Array(data));
  const value = reader.value(0);
  reader.end();
  return value;
}

class Reader {
  #data;
  #view;
  #at = 0;

  constructor(data) {
    this.#data = data;
    this.#view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  }

  end() {
    const left = this.#data.length - this.#at;
    if (left) throw new MsgpackError(`${left} bytes behind the value`);
  }

  value(depth) {
    const head = this.#view.getUint8(this.#take(1));
    if (head < 0x80) return head;
    if (head < 0x90) return this.#map(head & 0x0f, depth);
    if (head < 0xa0) return this.#array(head & 0x0f, depth);
    if (head < 0xc0) return this.#text(head & 0x1f);
    if (head >= 0xe0) return head - 0x100;
    switch (head) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return this.#binary(this.#length(1));
      case 0xc5: return this.#binary(this.#length(2));
      case 0xc6: return this.#binary(this.#length(4));
      case 0xc7: return this.#ext(this.#length(1));
      case 0xc8: return this.#ext(this.#length(2));
      case 0xc9: return this.#ext(this.#length(4));
      case 0xca: return this.#view.getFloat32(this.#take(4));
      case 0xcb: return this.#view.getFloat64(this.#take(8));
      case 0xcc: return this.#length(1);
      case 0xcd: return this.#length(2);
      case 0xce: return this.#length(4);
      case 0xcf: return exact(this.#view.getBigUint64(this.#take(8)));
      case 0xd0: return this.#view.getInt8(this.#take(1));
      case 0xd1: return this.#view.getInt16(this.#take(2));
      case 0xd2: return this.#view.getInt32(this.#take(4));
      case 0xd3: return exact(this.#view.getBigInt64(this.#take(8)));
      case 0xd9: return this.#text(this.#length(1));
      case 0xda: return this.#text(this.#length(2));
      case 0xdb: return this.#text(this.#length(4));
      case 0xdc: return this.#array(this.#length(2), depth);
      case 0xdd: return this.#array(this.#length(4), depth);
      case 0xde: return this.#map(this.#length(2), depth);
      case 0xdf: return this.#map(this.#length(4), depth);
    }
    if (head >= 0xd4 && head <= 0xd8) return this.#ext(2 ** (head - 0xd4));
    throw new MsgpackError(`byte 0x${head.toString(16)} begins no value`);
  }

  // Step over so many bytes, and return where they begin.
  #take(count) {
    const at = this.#at;
    if (count > this.#data.length - at) throw new MsgpackError("cut off");
    this.#at = at + count;
    return at;
  }

  #length(size) {
    const at = this.#take(size);
    if (size === 1) return this.#view.getUint8(at);
    return size === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  // Before anything is made for them: each item takes a byte at least.
  #enter(count, depth) {
    if (depth >= MAX_DEPTH) throw new MsgpackError(`nested deeper than ${MAX_DEPTH}`);
    if (count > this.#data.length - this.#at) throw new MsgpackError("cut off");
  }

  #array(length, depth) {
    this.#enter(length, depth);
    const items = [];
    for (let i = 0; i < length; i++) items.push(this.value(depth + 1));
    return items;
  }

  #map(length, depth) {
    this.#enter(2 * length, depth);
    const map = {};
    for (let i = 0; i < length; i++) {
      const key = this.value(MAX_DEPTH); // no key holds other values
      if (typeof key !== "string" && typeof key !== "number" && typeof key !== "bigint") {
        throw new MsgpackError("a key that is neither text nor a number");
      }
      const value = this.value(depth + 1);
      if (key === "__proto__") {
        Object.defineProperty(map, key, { value, writable: true, enumerable: true, configurable: true });
      } else map[key] = value;
    }
    return map;
  }

  #text(length) {
    const at = this.#take(length);
    if (length < 24) {
      let text = "";
      let i = at;
      for (; i < at + length && this.#data[i] < 0x80; i++) text += String.fromCharCode(this.#data[i]);
      if (i === at + length) return text;
    }
    try {
      return textDecoder.decode(this.#data.subarray(at, at + length));
    } catch (cause) {
      throw new MsgpackError("text that is no UTF-8", { cause });
    }
  }

  #binary(length) {
    const at = this.#take(length);
    return this.#data.slice(at, at + length); // a copy: a view would keep the whole message
  }

  #ext(length) {
    const type = this.#view.getInt8(this.#take(1));
    const data = this.#binary(length);
    return type === TIMESTAMP ? timestamp(new DataView(data.buffer)) : new Ext(type, data);
  }
}

function exact(value) {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

// A Date has milliseconds: what is finer is lost.
function timestamp(view) {
  let seconds, nanoseconds = 0;
  if (view.byteLength === 4) seconds = view.getUint32(0);
  else if (view.byteLength === 8) {
    const both = view.getBigUint64(0);
    [seconds, nanoseconds] = [Number(both & 0x3_ffff_ffffn), Number(both >> 34n)];
  } else if (view.byteLength === 12) {
    [seconds, nanoseconds] = [Number(view.getBigInt64(4)), view.getUint32(0)];
  } else throw new MsgpackError(`a timestamp of ${view.byteLength} bytes`);
  const date = new Date(seconds * 1000 + Math.floor(nanoseconds / 1e6));
  if (nanoseconds > 999_999_999 || Number.isNaN(date.getTime())) throw new MsgpackError("a timestamp out of range");
  return date;
}
