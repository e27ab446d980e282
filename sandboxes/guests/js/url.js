// URL and URLSearchParams, for the addresses that programs mostly have: scheme://user@host:port/path?query#hash.
// Not the whole standard: host names are lower-cased and otherwise left as they are. What is fetched, the gateway
// reads for itself. Given `inner`, defines two globals.
(function (inner) {
  "use strict";
  const PORTS = { __proto__: null, "http:": "80", "https:": "443", "ws:": "80", "wss:": "443", "ftp:": "21" };
  const WHOLE = /^([A-Za-z][A-Za-z0-9+.-]*:)(?:\/\/([^/?#]*))?([^?#]*)(\?[^#]*)?(#.*)?$/s;
  const PLACE = /^(?:([^:@]*)(?::([^@]*))?@)?(\[[0-9A-Fa-f:.]+\]|[^:@[\]]*)(?::(\d*))?$/;

  const plus = (text) => encodeURIComponent(text).replace(/%20/g, "+").replace(/[!'()~]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
  const unplus = (text) => {
    const spaced = text.replaceAll("+", " ");
    try {
      return decodeURIComponent(spaced);
    } catch {
      return spaced;
    }
  };
  // Percent-encodes what may not stand there, and leaves alone what is encoded already.
  const escaped = (text, allowed) =>
    text.replace(/[^!-~]|["<>`{}'^|]/gu, (c) => (allowed.includes(c) ? c : encodeURIComponent(c).replace("'", "%27")));

  class URLSearchParams {
    #pairs = [];
    #changed = () => {};
    constructor(from = "", changed = undefined) {
      if (typeof from === "string") {
        for (const part of from.replace(/^\?/, "").split("&")) {
          if (part === "") continue;
          const at = part.indexOf("=");
          this.#pairs.push(at < 0 ? [unplus(part), ""] : [unplus(part.slice(0, at)), unplus(part.slice(at + 1))]);
        }
      } else {
        const pairs = typeof from[Symbol.iterator] === "function" ? from : Object.entries(from);
        for (const [name, value] of pairs) this.#pairs.push([String(name), String(value)]);
      }
      if (typeof changed === "function") this.#changed = changed;
    }
    get size() {
      return this.#pairs.length;
    }
    append(name, value) {
      this.#pairs.push([String(name), String(value)]);
      this.#changed();
    }
    delete(name) {
      this.#pairs = this.#pairs.filter(([key]) => key !== String(name));
      this.#changed();
    }
    get(name) {
      return this.#pairs.find(([key]) => key === String(name))?.[1] ?? null;
    }
    getAll(name) {
      return this.#pairs.filter(([key]) => key === String(name)).map(([, value]) => value);
    }
    has(name) {
      return this.#pairs.some(([key]) => key === String(name));
    }
    set(name, value) {
      const first = this.#pairs.find(([key]) => key === String(name));
      if (first === undefined) return this.append(name, value);
      first[1] = String(value);
      this.#pairs = this.#pairs.filter((pair) => pair === first || pair[0] !== String(name));
      this.#changed();
    }
    sort() {
      this.#pairs.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
      this.#changed();
    }
    forEach(visit) {
      for (const [name, value] of this.#pairs) visit(value, name, this);
    }
    *entries() {
      for (const [name, value] of this.#pairs) yield [name, value];
    }
    *keys() {
      for (const [name] of this.#pairs) yield name;
    }
    *values() {
      for (const [, value] of this.#pairs) yield value;
    }
    [Symbol.iterator]() {
      return this.entries();
    }
    toString() {
      return this.#pairs.map(([name, value]) => `${plus(name)}=${plus(value)}`).join("&");
    }
  }

  // A path without "." and ".." in it.
  const straight = (path) => {
    const out = [];
    const parts = path.split("/").slice(1);
    parts.forEach((part, at) => {
      const last = at === parts.length - 1;
      if (part === "..") out.pop();
      else if (part !== ".") return out.push(part);
      if (last) out.push("");
    });
    return `/${out.join("/")}`;
  };

  const resolved = (text, base) => {
    if (/^[A-Za-z][A-Za-z0-9+.-]*:/.test(text)) return text;
    if (text.startsWith("//")) return base.protocol + text;
    const root = `${base.protocol}//${base.username ? `${base.username}${base.password ? `:${base.password}` : ""}@` : ""}${base.host}`;
    if (text.startsWith("/")) return root + text;
    if (text.startsWith("?")) return root + base.pathname + text;
    if (text.startsWith("#") || text === "") return root + base.pathname + base.search + text;
    return root + base.pathname.slice(0, base.pathname.lastIndexOf("/") + 1) + text;
  };

  class URL {
    #params;
    #search = "";
    constructor(address, base = undefined) {
      const text = String(address).trim();
      const found = WHOLE.exec(base === undefined ? text : resolved(text, new URL(base)));
      const place = found === null ? null : PLACE.exec(found[2] ?? "");
      const bad = found === null || place === null || (found[1].toLowerCase() in PORTS && !place[3]) || Number(place[4] ?? 0) > 65535;
      if (bad) throw Object.assign(new TypeError(`Invalid URL: ${text}`), { code: "ERR_INVALID_URL", input: text });
      this.protocol = found[1].toLowerCase();
      this.username = escaped(place[1] ?? "", "");
      this.password = escaped(place[2] ?? "", "");
      this.hostname = place[3].toLowerCase();
      const port = place[4] ? String(Number(place[4])) : "";
      this.port = port === PORTS[this.protocol] ? "" : port;
      const path = escaped(found[3], "'^|");
      this.pathname = found[2] === undefined ? path : straight(path === "" ? "/" : path);
      this.hash = escaped(found[5] ?? "", "'^|{}");
      if (this.hash === "#") this.hash = "";
      this.search = found[4] ?? "";
    }
    static canParse(address, base) {
      return URL.parse(address, base) !== null;
    }
    static parse(address, base) {
      try {
        return new URL(address, base);
      } catch {
        return null;
      }
    }
    get search() {
      return this.#search;
    }
    set search(text) {
      const query = escaped(String(text), "^|`{}");
      this.#search = query === "" || query === "?" ? "" : query.startsWith("?") ? query : `?${query}`;
      this.#params = undefined;
    }
    get searchParams() {
      this.#params ??= new URLSearchParams(this.#search, () => {
        const query = String(this.#params);
        this.#search = query === "" ? "" : `?${query}`;
      });
      return this.#params;
    }
    get host() {
      return this.hostname + (this.port === "" ? "" : `:${this.port}`);
    }
    get origin() {
      return this.protocol in PORTS ? `${this.protocol}//${this.host}` : "null";
    }
    get href() {
      const user = this.username === "" ? "" : `${this.username}${this.password === "" ? "" : `:${this.password}`}@`;
      const place = this.hostname === "" && !(this.protocol in PORTS) ? "" : `//${user}${this.host}`;
      return this.protocol + place + this.pathname + this.#search + this.hash;
    }
    toString() {
      return this.href;
    }
    toJSON() {
      return this.href;
    }
  }

  inner.define("URL", URL);
  inner.define("URLSearchParams", URLSearchParams);
})
