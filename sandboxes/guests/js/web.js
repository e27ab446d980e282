// What JavaScript has outside of the language, on the web and in Node: text encoding, cloning, random numbers, fetch.
// Given `inner`, defines globals; adds encode, decode and seed to it.
(function (inner) {
  "use strict";
  const { getPrototypeOf } = Reflect;
  const TypedArray = getPrototypeOf(Uint8Array);
  const PIECE = 4096;

  // A global as the language's own are: not listed, and free to be replaced.
  inner.define = (name, value) =>
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });

  const encode = (text) => {
    const bytes = new Uint8Array(text.length * 3);
    let end = 0;
    for (let at = 0; at < text.length; at++) {
      let code = text.charCodeAt(at);
      if (code < 0x80) {
        bytes[end++] = code;
        continue;
      }
      if (code < 0x800) {
        bytes[end++] = 0xc0 | (code >> 6);
      } else {
        if (code >= 0xd800 && code < 0xe000) {
          const low = at + 1 < text.length ? text.charCodeAt(at + 1) : 0;
          if (code < 0xdc00 && low >= 0xdc00 && low < 0xe000) {
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            at++;
          } else {
            code = 0xfffd;
          }
        }
        if (code < 0x10000) {
          bytes[end++] = 0xe0 | (code >> 12);
        } else {
          bytes[end++] = 0xf0 | (code >> 18);
          bytes[end++] = 0x80 | ((code >> 12) & 0x3f);
        }
        bytes[end++] = 0x80 | ((code >> 6) & 0x3f);
      }
      bytes[end++] = 0x80 | (code & 0x3f);
    }
    return bytes.slice(0, end);
  };

  // The code point at `at` and the bytes it takes; a negative code point is a mistake of that many bytes.
  const step = (bytes, at) => {
    const first = bytes[at];
    const size = first < 0x80 ? 1 : first >= 0xc2 && first < 0xe0 ? 2 : first >= 0xe0 && first < 0xf0 ? 3 : first >= 0xf0 && first < 0xf5 ? 4 : 0;
    if (size === 0) return [-1, 1];
    let code = size === 1 ? first : first & (0xff >> (size + 1));
    for (let more = 1; more < size; more++) {
      const byte = bytes[at + more];
      let low = 0x80;
      let high = 0xbf;
      if (more === 1 && first === 0xe0) low = 0xa0;
      if (more === 1 && first === 0xed) high = 0x9f;
      if (more === 1 && first === 0xf0) low = 0x90;
      if (more === 1 && first === 0xf4) high = 0x8f;
      if (byte === undefined || byte < low || byte > high) return [-1, more];
      code = (code << 6) | (byte & 0x3f);
    }
    return [code, size];
  };

  const decode = (bytes, fatal) => {
    let text = "";
    let codes = [];
    for (let at = 0; at < bytes.length; ) {
      const [code, size] = step(bytes, at);
      if (code < 0 && fatal) throw new TypeError("The encoded data was not valid for encoding utf-8");
      codes.push(code < 0 ? 0xfffd : code);
      at += size;
      if (codes.length === PIECE) {
        text += String.fromCodePoint.apply(null, codes);
        codes = [];
      }
    }
    return text + String.fromCodePoint.apply(null, codes);
  };

  const bytesOf = (source) => {
    if (source instanceof ArrayBuffer) return new Uint8Array(source);
    if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
    throw new TypeError("expected an ArrayBuffer, a typed array or a DataView");
  };

  class TextEncoder {
    get encoding() {
      return "utf-8";
    }
    encode(text = "") {
      return encode(String(text));
    }
  }

  class TextDecoder {
    #fatal;
    #keepMark;
    constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
      if (!["utf-8", "utf8"].includes(String(label).trim().toLowerCase())) {
        throw new RangeError(`The encoding ${label} is not supported; there is utf-8`);
      }
      this.#fatal = Boolean(fatal);
      this.#keepMark = Boolean(ignoreBOM);
    }
    get encoding() {
      return "utf-8";
    }
    decode(source = new Uint8Array()) {
      const text = decode(bytesOf(source), this.#fatal);
      return !this.#keepMark && text.startsWith("\ufeff") ? text.slice(1) : text;
    }
  }

  const refuseClone = (value) => {
    throw new DOMException(`${inner.inspect(value)} could not be cloned.`, "DataCloneError");
  };

  const copied = (value) => {
    if (value instanceof Date) return new Date(value.getTime());
    if (value instanceof RegExp) return new RegExp(value.source, value.flags);
    if (value instanceof ArrayBuffer) return value.slice(0);
    if (value instanceof DataView) return new DataView(value.buffer.slice(0), value.byteOffset, value.byteLength);
    if (value instanceof TypedArray) return value.slice();
    if (value instanceof Boolean || value instanceof Number || value instanceof String) return Object(value.valueOf());
    return undefined;
  };

  const empty = (value) => {
    if (Array.isArray(value)) return new Array(value.length);
    if (value instanceof Map) return new Map();
    if (value instanceof Set) return new Set();
    if (value instanceof Error) {
      const kinds = { EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };
      return new (kinds[value.name] ?? Error)(value.message);
    }
    if (value instanceof Promise || value instanceof WeakMap || value instanceof WeakSet || value instanceof WeakRef) {
      return refuseClone(value);
    }
    return {};
  };

  const clone = (value, seen) => {
    if (typeof value === "function" || typeof value === "symbol") refuseClone(value);
    if (typeof value !== "object" || value === null) return value;
    if (seen.has(value)) return seen.get(value);
    const whole = copied(value);
    const twin = whole ?? empty(value);
    seen.set(value, twin);
    if (whole !== undefined) return twin;
    if (value instanceof Map) value.forEach((inside, key) => twin.set(clone(key, seen), clone(inside, seen)));
    else if (value instanceof Set) value.forEach((inside) => twin.add(clone(inside, seen)));
    else for (const key of Object.keys(value)) twin[key] = clone(value[key], seen);
    return twin;
  };

  // Small fast counter (sfc32): four words of state, each run's own.
  const state = new Uint32Array(4);
  const draw = () => {
    const sum = (state[0] + state[1] + state[3]) | 0;
    state[3] += 1;
    state[0] = state[1] ^ (state[1] >>> 9);
    state[1] = state[2] + (state[2] << 3);
    state[2] = ((state[2] << 21) | (state[2] >>> 11)) + sum;
    return sum >>> 0;
  };

  const fill = (array) => {
    if (!(array instanceof TypedArray) || array instanceof Float32Array || array instanceof Float64Array) {
      throw new TypeError("expected an array of integers");
    }
    if (array.byteLength > 65536) throw new DOMException("more than 65536 bytes", "QuotaExceededError");
    const bytes = bytesOf(array);
    for (let at = 0; at < bytes.length; at++) bytes[at] = draw() >>> 24;
    return array;
  };

  const uuid = () => {
    const bytes = fill(new Uint8Array(16));
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = bytes.toHex();
    return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
  };

  class Headers {
    #values = new Map();
    constructor(from = {}) {
      const pairs = typeof from[Symbol.iterator] === "function" ? from : Object.entries(from);
      for (const [name, value] of pairs) this.append(name, value);
    }
    append(name, value) {
      const before = this.get(name);
      this.set(name, before === null ? value : `${before}, ${value}`);
    }
    set(name, value) {
      this.#values.set(String(name).toLowerCase(), String(value));
    }
    get(name) {
      return this.#values.get(String(name).toLowerCase()) ?? null;
    }
    has(name) {
      return this.#values.has(String(name).toLowerCase());
    }
    delete(name) {
      this.#values.delete(String(name).toLowerCase());
    }
    forEach(visit) {
      this.#values.forEach((value, name) => visit(value, name, this));
    }
    entries() {
      return this.#values.entries();
    }
    keys() {
      return this.#values.keys();
    }
    values() {
      return this.#values.values();
    }
    [Symbol.iterator]() {
      return this.entries();
    }
  }

  class Response {
    #text;
    constructor(url, { status, headers, body }) {
      this.url = url;
      this.status = status;
      this.ok = status >= 200 && status < 300;
      this.headers = new Headers(headers ?? {});
      this.#text = typeof body === "string" ? body : JSON.stringify(body ?? "");
    }
    async text() {
      return this.#text;
    }
    async json() {
      return JSON.parse(this.#text);
    }
    async bytes() {
      return encode(this.#text);
    }
    async arrayBuffer() {
      return encode(this.#text).buffer;
    }
  }

  const bodyText = (body) => {
    if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) return decode(bytesOf(body), true);
    return String(body);
  };

  const fetch = async (url, { method = "GET", headers, body } = {}) => {
    const asked = { method: String(method).toUpperCase(), url: String(url) };
    if (headers !== undefined) asked.headers = Object.fromEntries(new Headers(headers));
    if (body !== undefined && body !== null) asked.body = bodyText(body);
    return new Response(asked.url, inner.call("net.fetch", asked));
  };

  inner.encode = encode;
  inner.decode = decode;
  inner.bytesOf = bytesOf;
  inner.seed = (words) => state.set(words);
  Math.random = () => (draw() * 2 ** 21 + (draw() >>> 11)) / 2 ** 53;
  inner.define("crypto", { getRandomValues: fill, randomUUID: uuid });
  inner.define("structuredClone", (value) => clone(value, new Map()));
  for (const kind of [TextEncoder, TextDecoder, Headers, fetch]) inner.define(kind.name, kind);
})
