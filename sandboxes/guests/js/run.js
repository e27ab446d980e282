// One run of one snippet, from its terms to its answer. Given `inner`, with `host(name, text)` as the one way out, adds
// what the host calls: begin, watch, fail and turn.
//
// Everything this file needs at the end of a run is taken here, before the snippet can replace it. What a snippet
// spoils all the same is its own answer, and the host reads that as hostile.
(function (inner) {
  "use strict";
  const { host, format, explain, encode, decode, bytesOf, define } = inner;
  const { stringify, parse } = JSON;
  const { apply } = Reflect;
  const { keys } = Object;
  const { isInteger } = Number;
  const evaluate = eval;
  const exec = RegExp.prototype.exec;
  const slice = String.prototype.slice;
  const charCodeAt = String.prototype.charCodeAt;
  const toBase64 = Uint8Array.prototype.toBase64;
  const fromBase64 = Uint8Array.fromBase64;
  const OutOfMemory = InternalError;
  const BEYOND_ASCII = /[^\x00-\x7f]/;
  // An integer this long may be beyond 64 bits, which most readers of JSON would garble.
  const LONG_RUN = /\d{19}/;
  const FILE_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$/;
  const MAX_FILES = 32;
  // Read where the snippet's own `let` and `const` are seen, too.
  const RESULT = "typeof result === 'undefined' ? undefined : result";

  let terms;
  let left;
  let stdout = "";
  let stderr = "";
  let truncated = false;
  let failure;
  let settled = false;
  let completion;
  let collecting = false;
  let collected;

  const matches = (pattern, text) => apply(exec, pattern, [text]) !== null;

  // Bytes of UTF-8 that the code unit at `at` adds: half of four for each surrogate.
  const width = (text, at) => {
    const code = apply(charCodeAt, text, [at]);
    return code < 0x80 ? 1 : code < 0x800 || (code >= 0xd800 && code < 0xe000) ? 2 : 3;
  };

  const size = (text) => {
    if (!matches(BEYOND_ASCII, text)) return text.length;
    let bytes = 0;
    for (let at = 0; at < text.length; at++) bytes += width(text, at);
    return bytes;
  };

  const fitting = (text, room) => {
    let at = 0;
    for (let bytes = 0; at < text.length; at++) {
      bytes += width(text, at);
      if (bytes > room) break;
    }
    // A pair is kept whole or not at all.
    const code = at > 0 ? apply(charCodeAt, text, [at - 1]) : 0;
    return apply(slice, text, [0, code >= 0xd800 && code < 0xdc00 ? at - 1 : at]);
  };

  const write = (toStderr, text) => {
    const needed = text.length > left ? text.length : size(text);
    const part = needed > left ? fitting(text, left) : text;
    if (toStderr) stderr += part;
    else stdout += part;
    if (needed > left) {
      truncated = true;
      host(".exit", answer(false, "output"));
    }
    left -= needed;
  };

  const answer = (ok, limit, result = "null", extra = "", files = "") =>
    `{"ok":${ok},"limit":${stringify(limit)},"stdout":${stringify(stdout)},"stderr":${stringify(stderr + extra)},` +
    `"truncated":${truncated},"result":${result}${files === "" ? "" : `,"files":${files}`}}`;

  // --- the console

  let indent = "";
  const line = (toStderr, values) => {
    const text = format(values);
    write(toStderr, (indent === "" ? text : indent + text.replaceAll("\n", `\n${indent}`)) + "\n");
  };
  const out = (...values) => line(false, values);
  const err = (...values) => line(true, values);
  const counts = new Map();
  define("console", {
    log: out,
    info: out,
    debug: out,
    dir: (value) => out(value),
    table: (value) => out(value),
    warn: err,
    error: err,
    trace: (...values) => err("Trace:", ...values),
    assert: (holds, ...values) => {
      if (!holds) err("Assertion failed", ...values);
    },
    count: (label = "default") => {
      counts.set(label, (counts.get(label) ?? 0) + 1);
      out(`${label}: ${counts.get(label)}`);
    },
    group: (...values) => {
      if (values.length > 0) line(false, values);
      indent += "  ";
    },
    groupEnd: () => {
      indent = indent.slice(2);
    },
    time: () => {},
    timeEnd: () => {},
    timeLog: () => {},
  });
  define("print", out);

  // --- calls of tools

  class ToolError extends Error {
    get name() {
      return "ToolError";
    }
  }

  const call = (name, args = {}) => {
    const tool = String(name);
    if (!terms.tools.includes(tool)) {
      throw new ToolError(`'${tool}' may not be called from here; allowed: ${terms.tools.join(", ") || "none"}`);
    }
    if (typeof args !== "object" || args === null || Array.isArray(args)) {
      throw new TypeError("the arguments of a tool are one object, such as {name: value}");
    }
    const reply = parse(host(tool, stringify(args)));
    if ("error" in reply) throw new ToolError(reply.error);
    return reply.value;
  };

  const offered = {
    get: (target, name) => {
      if (typeof name === "symbol" || name === "then") return undefined;
      return (args) => call(name, args);
    },
    set: () => false,
    has: (target, name) => terms.tools.includes(name),
    ownKeys: () => [...terms.tools],
    getOwnPropertyDescriptor: (target, name) =>
      terms.tools.includes(name) ? { value: offered.get(target, name), enumerable: true, configurable: true } : undefined,
  };
  inner.call = call;
  define("ToolError", ToolError);
  define("call", call);
  define("tools", new Proxy({}, offered));

  // --- files: base64 as it came, until it is written

  let given;
  let written;

  const present = (name) => {
    if (name in written) return written[name];
    if (name in given) return apply(fromBase64, Uint8Array, [given[name]]);
    throw Object.assign(new Error(`no such file: '${name}'`), { code: "ENOENT" });
  };
  define("readFile", (name) => present(String(name)).slice());
  define("readTextFile", (name) => decode(present(String(name)), false));
  define("listFiles", () => keys({ ...given, ...written }).sort());
  define("writeFile", (name, content) => {
    const file = String(name);
    if (!matches(FILE_NAME, file)) {
      throw new TypeError("a file's name is 1 to 100 of A-Z a-z 0-9 . _ - and does not begin with . or -");
    }
    if (!(file in written) && keys(written).length >= MAX_FILES) throw new Error(`at most ${MAX_FILES} files can be written`);
    written[file] = typeof content === "string" ? encode(content) : bytesOf(content).slice();
  });

  // The files that are new or changed, as JSON text; undefined if they are more than may leave.
  const leaving = () => {
    if (terms.files_out === 0) return "";
    const changed = { __proto__: null };
    let room = terms.files_out;
    for (const name of keys(written)) {
      const text = apply(toBase64, written[name], []);
      if (text === given[name]) continue;
      room -= written[name].length;
      if (room < 0) return undefined;
      changed[name] = text;
    }
    return stringify(changed);
  };

  // --- time: it stands still but for timers, which jump to when they are due

  // By the time they are due, and of those due at the same time the oldest first; the ones before `next` have run.
  let timers = [];
  let next = 0;
  let lastTimer = 0;
  const clock = Date.now;
  const place = (timer) => {
    let low = next;
    let high = timers.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (timers[middle].due <= timer.due) low = middle + 1;
      else high = middle;
    }
    if (low === timers.length) timers.push(timer);
    else timers.splice(low, 0, timer);
  };
  const setTimer = (callback, delay, every, values) => {
    if (typeof callback !== "function") throw new TypeError("the callback of a timer is a function");
    const asked = Math.trunc(Number(delay));
    const wait = asked >= 1 && asked < 2 ** 31 ? asked : 1;
    place({ id: ++lastTimer, due: clock() + wait, every: every ? wait : 0, callback, values });
    return lastTimer;
  };
  const clearTimer = (id) => {
    timers = timers.slice(next).filter((timer) => timer.id !== id);
    next = 0;
  };
  define("setTimeout", (callback, delay, ...values) => setTimer(callback, delay, false, values));
  define("setInterval", (callback, delay, ...values) => setTimer(callback, delay, true, values));
  define("setImmediate", (callback, ...values) => setTimer(callback, 0, false, values));
  for (const name of ["clearTimeout", "clearInterval", "clearImmediate"]) define(name, clearTimer);

  const runTimer = () => {
    if (next === timers.length) return false;
    const timer = timers[next];
    timers[next++] = undefined;
    if (timer.every > 0) place({ ...timer, due: timer.due + timer.every });
    const ahead = timer.due - clock();
    if (ahead > 0) host(".sleep", `${ahead}`);
    try {
      timer.callback(...timer.values);
    } catch (error) {
      fail(error);
    }
    return true;
  };

  // --- the run

  const elapsed = performance.now.bind(performance);
  const origin = () => terms.now * 1000;
  define("performance", {
    now: () => Math.max(0, Math.round((elapsed() - origin()) * 1000) / 1000),
    get timeOrigin() {
      return origin();
    },
  });

  // `text`: an array of the arguments as JSON text, the terms, and four words of seed.
  const begin = (text) => {
    const found = parse(text);
    terms = found[1];
    left = terms.output;
    given = { __proto__: null, ...terms.files };
    written = { __proto__: null };
    inner.seed(found[2]);
    globalThis.args = parse(found[0]);
  };

  const watch = async (promise) => {
    try {
      completion = (await promise).value;
      settled = true;
    } catch (error) {
      fail(error);
    }
  };

  const fail = (error) => {
    failure ??= { error };
  };

  const collect = async () => {
    collecting = true;
    try {
      const left = evaluate(RESULT);
      const value = await (left === undefined ? completion : left);
      collected = { value, meant: left !== undefined };
    } catch (error) {
      fail(error);
    }
  };

  const big = (value) => {
    if (typeof value === "number") return isInteger(value) && value < 1e21 && value > -1e21 && (value >= 2 ** 64 || value < -(2 ** 63));
    if (typeof value !== "object" || value === null) return false;
    for (const key of keys(value)) if (big(value[key])) return true;
    return false;
  };

  // The result as JSON text. The value of the last expression was perhaps not meant as one: what is no JSON is nothing.
  const resultText = ({ value, meant }) => {
    try {
      const text = stringify(value) ?? "null";
      if (matches(LONG_RUN, text) && big(parse(text))) throw new TypeError("an integer is beyond 64 bits; make it a string");
      return text;
    } catch (error) {
      if (error instanceof OutOfMemory || meant) throw error;
      return "null";
    }
  };

  const broken = (error, prefix) => {
    const files = leaving() ?? "";
    if (error instanceof OutOfMemory && error.message === "out of memory") {
      return answer(false, "memory", "null", "the memory limit was reached\n");
    }
    return answer(false, null, "null", prefix + explain(error), files);
  };

  const finish = () => {
    if (failure !== undefined) return broken(failure.error, "");
    if (collected === undefined) return answer(false, null, "null", "the program waits for something that never comes\n");
    let result;
    try {
      result = resultText(collected);
    } catch (error) {
      return broken(error, "result is not JSON: ");
    }
    if (result.length > left) {
      truncated = true;
      return answer(false, "output");
    }
    const files = leaving();
    return files === undefined ? answer(false, "files_out") : answer(true, null, result, "", files);
  };

  // Called whenever no promise job is left: the next thing that happens, or the answer.
  const turn = () => {
    if (failure === undefined) {
      if (runTimer()) return "";
      if (settled && !collecting) {
        collect();
        return "";
      }
    }
    return finish();
  };

  Object.assign(inner, { begin, watch, fail, turn });
})
