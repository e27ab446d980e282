// How values are shown: what console.log prints of an object, and the text of an uncaught error.
// Never calls a getter. Given `inner`, adds inspect, format and explain to it.
(function (inner) {
  "use strict";
  const DEPTH = 4;
  const ITEMS = 100;
  const WIDTH = 76;
  const ERROR_CHARS = 8192;
  const { ownKeys, getOwnPropertyDescriptor, getPrototypeOf, apply } = Reflect;
  const TypedArray = getPrototypeOf(Uint8Array);
  const IDENTIFIER = /^[A-Za-z_$][\w$]*$/;
  const toText = Function.prototype.toString;
  const symbolText = Symbol.prototype.toString;

  const quoted = (text) => {
    const mark = !text.includes("'") ? "'" : !text.includes('"') ? '"' : "`";
    const inside = JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"');
    return mark + (mark === "'" ? inside : inside.replaceAll(mark, "\\" + mark)) + mark;
  };

  const keyText = (key) =>
    typeof key === "symbol" ? `[${apply(symbolText, key, [])}]` : IDENTIFIER.test(key) ? key : quoted(key);

  const className = (value) => {
    for (let at = value; at !== null; at = getPrototypeOf(at)) {
      const found = getOwnPropertyDescriptor(at, "constructor");
      if (found !== undefined && typeof found.value === "function") return nameOf(found.value);
    }
    return null;
  };

  const nameOf = (callable) => {
    const found = getOwnPropertyDescriptor(callable, "name");
    return found !== undefined && typeof found.value === "string" ? found.value : "";
  };

  const primitive = (value, nested) => {
    if (typeof value === "string") return nested ? quoted(value) : value;
    if (typeof value === "bigint") return `${value}n`;
    if (typeof value === "symbol") return apply(symbolText, value, []);
    return Object.is(value, -0) ? "-0" : String(value);
  };

  const callable = (value) => {
    const kind = apply(toText, value, []).startsWith("class") ? "class" : "Function";
    const name = nameOf(value);
    return kind === "class" ? `[class ${name || "(anonymous)"}]` : `[Function${name ? `: ${name}` : " (anonymous)"}]`;
  };

  const layout = (open, parts, close, indent) => {
    if (parts.length === 0) return open + close;
    const line = `${open} ${parts.join(", ")} ${close}`;
    if (line.length + indent.length <= WIDTH && !line.includes("\n")) return line;
    const inside = parts.map((part) => `${indent}  ${part}`).join(",\n");
    return `${open}\n${inside}\n${indent}${close}`;
  };

  const more = (parts, total) => {
    if (total > ITEMS) parts.push(`... ${total - ITEMS} more item${total - ITEMS > 1 ? "s" : ""}`);
    return parts;
  };

  const member = (found, show) => {
    if ("value" in found) return show(found.value);
    return found.get ? (found.set ? "[Getter/Setter]" : "[Getter]") : "[Setter]";
  };

  const properties = (value, show, skip) => {
    const parts = [];
    let total = 0;
    for (const key of ownKeys(value)) {
      if (skip(key)) continue;
      const found = getOwnPropertyDescriptor(value, key);
      if (found === undefined || !found.enumerable) continue;
      if (++total <= ITEMS) parts.push(`${keyText(key)}: ${member(found, show)}`);
    }
    return more(parts, total);
  };

  const items = (value, show) => {
    const parts = [];
    let holes = 0;
    const flush = () => {
      if (holes > 0) parts.push(`<${holes} empty item${holes > 1 ? "s" : ""}>`);
      holes = 0;
    };
    const end = Math.min(value.length, ITEMS);
    for (let at = 0; at < end; at++) {
      const found = getOwnPropertyDescriptor(value, at);
      if (found === undefined) {
        holes++;
        continue;
      }
      flush();
      parts.push(member(found, show));
    }
    flush();
    return more(parts, value.length);
  };

  const isIndex = (key) => typeof key === "string" && /^\d+$/.test(key);
  const none = () => false;

  const collection = (value, show) => {
    const parts = [];
    let at = 0;
    if (value instanceof Map) {
      for (const [key, inside] of value) if (++at <= ITEMS) parts.push(`${show(key)} => ${show(inside)}`);
    } else {
      for (const inside of value) if (++at <= ITEMS) parts.push(show(inside));
    }
    return more(parts, at);
  };

  const errorText = (error, show) => {
    const known = new Set(["stack", "message", "cause", "errors", "name"]);
    const extra = properties(error, show, (key) => known.has(key));
    let text = headline(error) + frames(error);
    if (extra.length > 0) text += ` ${layout("{", extra, "}", "")}`;
    if (getOwnPropertyDescriptor(error, "cause") !== undefined) text += `\n  [cause]: ${show(error.cause)}`;
    if (Array.isArray(error.errors)) text += `\n  [errors]: ${show(error.errors)}`;
    return text;
  };

  const headline = (error) => {
    const name = error.name === undefined ? "Error" : String(error.name);
    const message = error.message === undefined ? "" : String(error.message);
    return name === "" || message === "" ? name + message : `${name}: ${message}`;
  };

  // The places in the snippet; our own frames, and those of the engine, are nobody's business.
  const frames = (error) => {
    const stack = typeof error.stack === "string" ? error.stack : "";
    const shown = stack.split("\n").filter((line) => line.trim() !== "" && !line.includes("<sandbox>") && !line.includes("(native)"));
    return shown.map((line) => `\n${line}`).join("");
  };

  const special = (value, show) => {
    if (typeof value === "function") return callable(value);
    if (value instanceof Error) return errorText(value, show);
    if (value instanceof Date) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
    if (value instanceof RegExp) return String(value);
    if (value instanceof Number || value instanceof String || value instanceof Boolean) {
      return `[${className(value)}: ${primitive(value.valueOf(), true)}]`;
    }
    return undefined;
  };

  const composite = (value, show, indent) => {
    const name = className(value);
    if (Array.isArray(value)) {
      const prefix = name === "Array" ? "" : `${name}(${value.length}) `;
      return layout(`${prefix}[`, [...items(value, show), ...properties(value, show, isIndex)], "]", indent);
    }
    if (value instanceof TypedArray) {
      return layout(`${name}(${value.length}) [`, items(value, show), "]", indent);
    }
    if (value instanceof Map || value instanceof Set) {
      return layout(`${name}(${value.size}) {`, collection(value, show), "}", indent);
    }
    if (value instanceof ArrayBuffer) return `ArrayBuffer { byteLength: ${value.byteLength} }`;
    const prefix = name === null ? "[Object: null prototype] " : name === "Object" ? "" : `${name} `;
    return layout(`${prefix}{`, properties(value, show, none), "}", indent);
  };

  // `above`: the objects that this one lies in.
  const shown = (value, above, indent, depth) => {
    if ((typeof value !== "object" && typeof value !== "function") || value === null) return primitive(value, depth > 0);
    if (above.includes(value)) return "[Circular]";
    const inside = [...above, value];
    const show = (part) => shown(part, inside, `${indent}  `, depth + 1);
    const text = special(value, show);
    if (text !== undefined) return text;
    if (depth > DEPTH) return Array.isArray(value) ? "[Array]" : `[${className(value) ?? "Object"}]`;
    return composite(value, show, indent);
  };

  const inspect = (value) => shown(value, [], "", 1);
  const plain = (value) => shown(value, [], "", 0);

  const directive = (kind, value) => {
    if (kind === "s") return typeof value === "object" && value !== null ? inspect(value) : String(value);
    if (kind === "d") return typeof value === "bigint" ? `${value}n` : String(Number(value));
    if (kind === "i") return String(Number.parseInt(value, 10));
    if (kind === "f") return String(Number.parseFloat(value));
    if (kind === "j") return String(JSON.stringify(value));
    return kind === "c" ? "" : inspect(value);
  };

  // The line that console.log prints for its arguments, with %s, %d, %i, %f, %j, %o, %O, %c and %% filled in.
  const format = (values) => {
    let rest = values;
    let text = "";
    if (typeof values[0] === "string" && values.length > 1 && values[0].includes("%")) {
      let next = 1;
      text = values[0].replace(/%[sdifjoOc%]/g, (found) =>
        found === "%%" ? "%" : next < values.length ? directive(found[1], values[next++]) : found);
      rest = values.slice(next);
      if (rest.length > 0) text += " ";
    }
    return text + rest.map(plain).join(" ");
  };

  // The text of an error that nobody caught: what it is, and where in the snippet.
  const explain = (error) => {
    let text;
    try {
      text = error instanceof Error ? inspect(error) : `Uncaught ${inspect(error)}`;
    } catch {
      text = "an error that cannot be shown";
    }
    if (text.length > ERROR_CHARS) {
      text = `${text.slice(0, ERROR_CHARS / 2)}\n  ...\n${text.slice(-ERROR_CHARS / 2)}`;
    }
    return `${text}\n`;
  };

  inner.inspect = inspect;
  inner.format = format;
  inner.explain = explain;
})
