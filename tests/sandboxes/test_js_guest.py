"""What a snippet of JavaScript finds inside: the language, a given clock and seed, tools, files, nothing outside."""

import asyncio
import json

import pytest

from sandboxes.model import CallRefused, Exit, Job, Limits
from sandboxes.pool import open_sandbox

NOW = 1_700_000_000.25
UNICODE = (
    "[new TextEncoder().encode('hé😀\\ud800').toHex(), new TextDecoder().decode(new Uint8Array([0xc3, 0xa9, 0xff]))]"
)

# program → stdout, result
RIGHT = {
    "args and result": ("result = {twice: args.map(a => a * 2)}", "", {"twice": [2, 4]}),
    "the last expression": ("const a = 20;\na * 2 + 2", "", 42),
    "result goes before the last expression": ("result = 1; 2", "", 1),
    "result by const": ("const result = [1];\n3", "", [1]),
    "a promise as last expression": ("async function main() { return 7 }\nmain()", "", 7),
    "a last expression that is no JSON": ("10n", "", None),
    "nothing": ("", "", None),
    "print": ("print('a', 1); console.info('b'); console.debug('c')", "a 1\nb\nc\n", None),
    "arithmetic": (
        "[7 % 3, 2 ** 10, 0.1 + 0.2, Math.hypot(3, 4), 5n ** 30n + '']",
        "",
        [1, 1024, 0.1 + 0.2, 5, str(5**30)],
    ),
    "JSON": ("JSON.stringify(JSON.parse('{\"a\": [1, 2]}'))", "", '{"a":[1,2]}'),
    "closures": ("const c = () => { let n = 0; return () => ++n }; const f = c(); f(); f()", "", 2),
    "classes": ("class A { #x = 1; get x() { return this.#x } static m = 2 }\n[new A().x, A.m]", "", [1, 2]),
    "async and await": (
        "const wait = ms => new Promise(go => setTimeout(go, ms, ms));\nawait Promise.all([wait(2), wait(1)])",
        "",
        [2, 1],
    ),
    "async iteration": (
        "const out = []; async function* g() { yield 1; yield 2 }\nfor await (const x of g()) out.push(x); out",
        "",
        [1, 2],
    ),
    "generators": ("function* g() { yield* [1, 2]; return 3 }\n[...g()]", "", [1, 2]),
    "patterns": ("'2020-01-02'.match(/(?<y>\\d+)-(?<m>\\d+)/).groups.m + 'aXbX'.replaceAll('X', '-')", "", "01a-b-"),
    "maps and sets": ("[...new Map([[1, 2]]).entries(), ...new Set([1, 1])]", "", [[1, 2], 1]),
    "the clock": ("[Date.now(), new Date().toISOString()]", "", [1_700_000_000_250, "2023-11-14T22:13:20.250Z"]),
    "no time zone": (
        "new Date(0).toString() + new Date().getTimezoneOffset()",
        "",
        "Thu Jan 01 1970 00:00:00 GMT+00000",
    ),
    "time jumps to timers": (
        "const s = Date.now(); setTimeout(() => print('b', Date.now() - s), 5000);\n"
        "setTimeout(() => print('a', Date.now() - s), 1000);\n"
        "await new Promise(go => setTimeout(go, 9000)); Date.now() - s",
        "a 1000\nb 5000\n",
        9000,
    ),
    "intervals": (
        "let n = 0; const i = setInterval(() => { if (++n === 3) { clearInterval(i); result = n } }, 10)",
        "",
        3,
    ),
    "timers in order": ("for (const t of [3, 1, 2, 1]) setTimeout(x => print(x), t, t); null", "1\n1\n2\n3\n", None),
    "performance": (
        "const a = performance.now(); await new Promise(go => setTimeout(go, 250)); [a, performance.now() >= 250]",
        "",
        [0, True],
    ),
    "text": (UNICODE, "", ["68c3a9f09f9880efbfbd", "é\ufffd"]),
    "base64": ("[btoa('hi'), atob('aGk=')]", "", ["aGk=", "hi"]),
    "structuredClone": (
        "const a = {d: new Date(5), m: new Map([[1, {x: 1}]])}; a.self = a; const b = structuredClone(a);\n"
        "[b.self === b, b.d.getTime(), b.m.get(1).x, b !== a]",
        "",
        [True, 5, 1, True],
    ),
    "URL": (
        "const u = new URL('../z?q=1#h', 'https://User@Example.COM:443/a/b c/d'); u.searchParams.append('k', 'v w');\n"
        "[u.href, u.host, u.origin]",
        "",
        ["https://User@example.com/a/z?q=1&k=v+w#h", "example.com", "https://example.com"],
    ),
    "not a URL": (
        "[URL.canParse('nope'), URL.canParse('http://:80/'), new URLSearchParams({a: 'x&'}).toString()]",
        "",
        [False, False, "a=x%26"],
    ),
    "lone surrogates are replaced": ("print('a\\ud800'); result = '\\udfff'", "a?\n", "?"),
    "emoji survive": ("print('😀'); result = '😀'", "😀\n", "😀"),
    "a rejection somebody handles": ("const p = Promise.reject(1); p.catch(() => {}); 5", "", 5),
    "code from text": ("[eval('1 + 1'), new Function('return 2')()]", "", [2, 2]),
    "sloppy names": ("x = 1; var y = 2; globalThis.x + this.y", "", 3),
}

SHOWN = {
    "1, 'a', null, undefined, true": "1 a null undefined true",
    "[1, 'a', [2]], {a: {b: 'c'}}": "[ 1, 'a', [ 2 ] ] { a: { b: 'c' } }",
    "'%s is %d and %j%%', 'x', 3, {a: 1}, 'rest'": 'x is 3 and {"a":1}% rest',
    "new Map([['a', {x: 1}]]), new Set([1])": "Map(1) { 'a' => { x: 1 } } Set(1) { 1 }",
    "() => 1, class A {}, Symbol('s'), -0, 10n": "[Function (anonymous)] [class A] Symbol(s) -0 10n",
    "new Date(), /x/g, new Uint8Array(2)": "2023-11-14T22:13:20.250Z /x/g Uint8Array(2) [ 0, 0 ]",
    "Object.create(null), new (class Foo { x = 1 })()": "[Object: null prototype] {} Foo { x: 1 }",
    "[1,,2]": "[ 1, <1 empty item>, 2 ]",
    "(() => { const a = {}; a.a = a; return a })()": "{ a: [Circular] }",
    "{a: {b: {c: {d: {e: {}}}}}}": "{ a: { b: { c: { d: { e: [Object] } } } } }",
    "{get a() { throw 1 }, 'b-c': 'it\\'s'}": "{ a: [Getter], 'b-c': \"it's\" }",
    "{a: 'x'.repeat(40), b: 'y'.repeat(40)}": f"{{\n  a: '{'x' * 40}',\n  b: '{'y' * 40}'\n}}",
    "Array(103).fill(0)": "[\n" + "  0,\n" * 100 + "  ... 3 more items\n]",
    "new TypeError('bad')": "TypeError: bad\n    at <eval> (<tool>:1:17)",
}

WRONG = {
    "the place is named": (
        "function f(x) {\n  return x.y.z\n}\n\nf({})",
        ["TypeError: cannot read property 'z' of undefined", "at f (<tool>:2:", "(<tool>:5:"],
    ),
    "after an await": ("await null;\nthrow new RangeError('late')", ["RangeError: late", "<tool>:2:"]),
    "in a timer": ("setTimeout(() => {\n  throw new Error('t')\n}, 5)", ["Error: t", "<tool>:2:"]),
    "causes": ("throw new Error('a', {cause: new TypeError('b')})", ["Error: a", "[cause]: TypeError: b"]),
    "syntax": ("let x = 1;\nlet y = (2", ["SyntaxError", "<tool>:2:"]),
    "a rejection nobody handles": ("Promise.reject(new Error('un')); 1", ["Error: un"]),
    "what is no error": ("throw {a: 1}", ["Uncaught { a: 1 }"]),
    "an error that cannot be shown": (
        "const e = new Error('x'); Object.defineProperty(e, 'message', {get() { throw e }}); throw e",
        ["cannot be shown"],
    ),
    "an endless error": ("throw new Error('x'.repeat(1e6))", ["Error: xxx", "..."]),
    "waiting for nothing": ("await new Promise(() => {})", ["waits for something that never comes"]),
    "no modules": ("await import('fs')", ["ReferenceError: could not load module 'fs'"]),
    "no import statements": ("import fs from 'fs'", ["SyntaxError"]),
    "no require": ("require('fs')", ["ReferenceError: require is not defined"]),
    "no WebAssembly": ("WebAssembly", ["ReferenceError: WebAssembly is not defined"]),
    "no process": ("process.exit()", ["ReferenceError: process is not defined"]),
    "result that is not JSON": ("result = 10n", ["result is not JSON: TypeError"]),
    "result that is a circle": ("result = []; result.push(result)", ["result is not JSON: TypeError"]),
    "result of big integers": ("result = [2 ** 65]", ["beyond 64 bits"]),
    "result that is deep": ("result = []; for (let i = 0; i < 100; i++) result = [result]", ["nested deeper than 64"]),
    "a tool that may not be called": (
        "tools.nope({})",
        ["ToolError: 'nope' may not be called from here; allowed: none"],
    ),
    "a file that is not there": ("readFile('x')", ["no such file: 'x'"]),
    "a name no file may have": ("writeFile('../x', '')", ["a file's name is"]),
    "clones of functions": ("structuredClone(() => 1)", ["could not be cloned"]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_works(run_js, name):
    """The snippet prints and leaves behind exactly what it would in any JavaScript, given this clock and these args."""
    program, stdout, value = RIGHT[name]
    done = run_js(Job(program, b"[1, 2]", now=NOW))
    assert (done.status, done.stdout, done.value) == ("ok", stdout, value), done


@pytest.mark.parametrize("values", SHOWN)
def test_values_are_shown_readably(run_js, values):
    """console.log shows values as a programmer expects, without calling getters and without end."""
    done = run_js(Job(f"console.log({values})", now=NOW))
    assert (done.status, done.stdout) == ("ok", SHOWN[values] + "\n"), done.stderr


@pytest.mark.parametrize("name", WRONG)
def test_what_fails_says_why(run_js, name):
    """The job ends as an error whose text names the reason, and without a frame of the sandbox's own code."""
    program, parts = WRONG[name]
    done = run_js(Job(program))
    assert done.status == "error"
    assert [part for part in parts if part not in done.stderr] == [], done.stderr
    assert "<sandbox>" not in done.stderr


def test_stderr_is_apart(run_js):
    """warn, error, trace and a failed assert go to stderr; groups indent."""
    done = run_js(
        Job(
            "console.group('g'); console.log('a\\nb'); console.error('e'); console.groupEnd();"
            "console.assert(false, 'n')"
        )
    )
    assert (done.stdout, done.stderr) == ("g\n  a\n  b\n", "  e\nAssertion failed n\n")


def test_input_that_is_not_json_is_an_error(run_js):
    """Arguments that are no JSON end the job as an error, not as a crash."""
    assert run_js(Job("print(1)", b"{")).status == "error"


async def desk(name: str, args: bytes) -> bytes:
    """Answers like a gateway: an echo, a refusal, a web page."""
    if name == "refuse":
        raise CallRefused("not you")
    if name == "net.fetch":
        asked = json.loads(args)
        return json.dumps({"status": 201, "headers": {"Content-Type": "a/b"}, "body": json.dumps(asked)}).encode()
    return json.dumps({"name": name, "args": json.loads(args)}).encode()


CALLS = {
    "by name": ("call('echo', {a: 'é'})", {"name": "echo", "args": {"a": "é"}}),
    "as a function": ("tools.echo({n: 1}).args.n + tools.echo().name", "1echo"),
    "awaited": ("(await tools.echo({n: 1})).args.n", 1),
    "the names": ("Object.keys(tools)", ["echo", "net.fetch", "refuse"]),
    "a refusal can be caught": (
        "try { tools.refuse({}) } catch (e) { [e instanceof ToolError, e.name, e.message] }",
        [True, "ToolError", "not you"],
    ),
    "arguments are one object": ("try { call('echo', [1]) } catch (e) { e.name }", "TypeError"),
    "fetch": (
        "const r = await fetch(new URL('http://x/y'), {method: 'post', headers: {A: 1}, body: 'b'});\n"
        "[r.ok, r.status, r.headers.get('content-type'), await r.json()]",
        [True, 201, "a/b", {"method": "POST", "url": "http://x/y", "headers": {"a": "1"}, "body": "b"}],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_tools_are_called(run_js, name):
    """Calls and fetches go through `on_call` with their arguments, and come back as values or as a `ToolError`."""
    program, value = CALLS[name]
    done = run_js(Job(program, tools=frozenset({"echo", "refuse", "net.fetch"})), desk)
    assert (done.status, done.value) == ("ok", value), done


def test_an_uncaught_refusal_is_the_jobs_error(run_js):
    """The text of the refusal is on stderr, with the line of the call."""
    done = run_js(Job("\ntools.refuse({})", tools=frozenset({"refuse"})), desk)
    assert (done.status, done.usage.host_calls) == ("error", 1)
    assert done.stderr.startswith("ToolError: not you\n")
    assert "<tool>:2:" in done.stderr


FILES = {"in.txt": "hé".encode(), "same.bin": bytes(range(256)), "old.txt": b"1"}
WORK = """
const same = readFile('same.bin');
writeFile('same.bin', same);
writeFile('old.txt', readTextFile('in.txt') + '!');
writeFile('new.bin', new Uint8Array([0, 255]).buffer);
[same.length, readFile('new.bin')[1], listFiles()]
"""


def test_files_come_in_and_go_out(run_js):
    """The job's files are there; those that are new or changed come back, the others do not."""
    done = run_js(Job(WORK, files=FILES, limits=Limits(files_out=1000)))
    assert done.value == [256, 255, ["in.txt", "new.bin", "old.txt", "same.bin"]], done
    assert done.files == {"old.txt": "hé!".encode(), "new.bin": b"\0\xff"}


def test_no_files_leave_unless_they_may(run_js):
    """Without `files_out` nothing comes back; past it the job ends with that limit."""
    assert run_js(Job(WORK, files=FILES)).files == {}
    over = run_js(Job("writeFile('a', 'x'.repeat(11))", limits=Limits(files_out=10)))
    assert (over.status, over.limit, over.files) == ("limit", "files_out", {})


RANDOM = """
result = [
  [Math.random(), crypto.randomUUID(), Array.from(crypto.getRandomValues(new Uint8Array(8))) + '', Math.random()],
  [Date.now(), new Date() + '', performance.timeOrigin],
]
"""


def test_the_same_seed_and_clock_give_the_same_bytes(run_js):
    """Two runs with one seed agree in every byte; another seed, the next one too, changes every random draw."""
    one, two, other = (run_js(Job(RANDOM, seed=seed, now=NOW)) for seed in (2**63, 2**63, 2**63 + 1))
    assert one.status == "ok", one.stderr
    assert json.dumps(one.value) == json.dumps(two.value)
    assert isinstance(one.value, list)
    assert isinstance(other.value, list)
    assert [a for a, b in zip(one.value[0], other.value[0], strict=True) if a == b] == []
    assert one.value[1] == other.value[1]


def test_an_exit_names_what_it_came_from(run_js):
    """A run says which backend it was, how much memory it took, and what was guaranteed."""
    done: Exit = run_js(Job("1"))
    assert done.backend == "wasm-js"
    assert done.usage.memory_peak is not None
    assert "deterministic" in done.guarantees


def test_a_sandbox_can_be_opened_for_once():
    """`open_sandbox` knows the backend by its name, and builds what it needs."""

    async def scenario() -> Exit:
        async with open_sandbox("wasm-js", Limits(), frozenset({"deterministic"})) as box:
            return await box.run(Job("6 * 7"))

    assert asyncio.run(scenario()).value == 42
