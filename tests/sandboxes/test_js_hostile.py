"""JavaScript that tries to take more than it was given, each snippet followed by one that must not notice."""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from wasmtime import Trap

from sandboxes.guest import Stopped
from sandboxes.guests.build import DEFAULT_FOLDER, ensure_js
from sandboxes.js_guest import JsGuest
from sandboxes.model import MIB, CallRefused, Job, Limits

LIMITS = Limits(wall=30.0, memory=64 * MIB, output=10_000, host_calls=3)
SHORT = Limits(wall=0.3, memory=64 * MIB)
# The wasm stack of a guest lies on the thread that runs it.
THREAD_STACK = 32 * MIB

# program, limits → status, limit
CASES = {
    "endless loop": ("for (;;);", SHORT, "timeout", None),
    "endless loop that catches everything": ("for (;;) try { for (;;); } catch {}", SHORT, "timeout", None),
    "endless promises": ("const f = () => Promise.resolve().then(f); f()", SHORT, "timeout", None),
    "endless awaits": ("for (;;) await 1", SHORT, "timeout", None),
    "endless thenable": ("const t = {then(go) { go(t) }}; await t", SHORT, "timeout", None),
    "endless timers": ("setInterval(() => {}, 2 ** 31 - 1)", SHORT, "timeout", None),
    "endless getter of an error": (
        "throw {get constructor() { for (;;); }, __proto__: Error.prototype}",
        SHORT,
        "error",
        None,
    ),
    "endless toString of an error": (
        "throw Object.assign(new Error(), {name: {toString() { for (;;); }}})",
        SHORT,
        "timeout",
        None,
    ),
    "endless toJSON": ("result = {toJSON() { for (;;); }}", SHORT, "timeout", None),
    "endless proxy": ("console.log(new Proxy({}, {ownKeys() { for (;;); }}))", SHORT, "timeout", None),
    "catastrophic pattern": ("/(a+)+$/.test('a'.repeat(64) + 'b')", SHORT, "timeout", None),
    "huge power": ("(2n ** 1000000n) ** 1000n", LIMITS, "error", None),
    "growing arrays": ("const a = []; for (;;) a.push(new Array(1e5).fill(1))", LIMITS, "limit", "memory"),
    "growing buffers": ("const a = []; for (;;) a.push(new ArrayBuffer(2 ** 20))", LIMITS, "limit", "memory"),
    "growing strings": ("const a = []; for (let i = 0; ; i++) a.push('x'.repeat(1e5) + i)", LIMITS, "limit", "memory"),
    "growing map": (
        "const m = new Map(); for (let i = 0; ; i++) m.set(i, 'v'.repeat(1000) + i)",
        LIMITS,
        "limit",
        "memory",
    ),
    "growing promises": (
        "const a = []; for (;;) a.push(new Promise(() => {}), new Uint8Array(1e4))",
        LIMITS,
        "limit",
        "memory",
    ),
    "a giant string": ("'x'.repeat(2 ** 29)", LIMITS, "limit", "memory"),
    "rejections nobody handles": ("for (let i = 0; i < 1e4; i++) Promise.reject(i)", LIMITS, "error", None),
    "recursion": ("function f() { return 1 + f() } f()", LIMITS, "error", None),
    "recursion in a getter": ("const o = {get a() { return this.a }}; o.a", LIMITS, "error", None),
    "recursion in toString": ("const o = {toString() { return `${o}` }}; `${o}`", LIMITS, "error", None),
    "recursion of promises": ("async function f() { await f() } await f()", LIMITS, "error", None),
    "nested parentheses": ("eval('('.repeat(1e5))", LIMITS, "error", None),
    "nested arrows": ("eval('()=>'.repeat(1e5) + 1)", LIMITS, "error", None),
    "nested groups": ("new RegExp('(?:'.repeat(1e5) + ')'.repeat(1e5))", LIMITS, "error", None),
    "nested JSON": ("JSON.parse('['.repeat(1e6))", LIMITS, "error", None),
    "nested proxies": ("let p = {}; for (let i = 0; i < 1e5; i++) p = new Proxy(p, {}); p.x", LIMITS, "error", None),
    "nested garbage": ("let g; for (let i = 0; i < 3e5; i++) g = {g}; g = null", LIMITS, "ok", None),
    "output without end": ("for (;;) console.log('x'.repeat(999))", LIMITS, "limit", "output"),
    "output caught": ("for (;;) try { print('x'.repeat(999)) } catch {}", LIMITS, "limit", "output"),
    "output on stderr": ("for (;;) console.error('x')", LIMITS, "limit", "output"),
    "output as result": ("result = 'x'.repeat(20_000)", LIMITS, "limit", "output"),
    "endless groups": ("for (;;) console.group()", SHORT, "timeout", None),
    "host call flood": ("for (;;) call('t')", LIMITS, "limit", "host_calls"),
    "host call flood caught": ("for (;;) try { call('t') } catch {}", LIMITS, "limit", "host_calls"),
    "a tool that is not granted": ("call('other')", LIMITS, "error", None),
    "more files than there may be": ("for (let i = 0; ; i++) writeFile(`f${i}`, '')", LIMITS, "error", None),
    "atomics that wait": ("Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)", LIMITS, "error", None),
}


async def answer(_name: str, _args: bytes) -> bytes:
    return b"1"


@pytest.mark.parametrize("name", CASES)
def test_it_ends_as_classed_and_the_next_job_is_unaffected(run_js, name):
    """Every hostile snippet ends with its own status, and the next job on the same worker gives its plain answer."""
    program, limits, status, limit = CASES[name]
    done = run_js(Job(program, tools=frozenset({"t"}), limits=limits), answer)
    assert (done.status, done.limit) == (status, limit), done
    following = run_js(Job("print(6 * 7); Object.keys(globalThis)"))
    assert (following.status, following.stdout, following.value) == ("ok", "42\n", ["args"])


@pytest.mark.parametrize("write", ["print('x'.repeat(1e7))", "for (let i = 0; i < 1e4; i++) print('x'.repeat(99))"])
def test_the_first_part_of_too_much_output_is_kept(run_js, write):
    """Output past its limit ends the job with exactly the limit's bytes kept and `truncated` set."""
    done = run_js(Job(f"print('first')\n{write}", limits=Limits(output=1000)))
    assert (done.status, done.limit, done.truncated) == ("limit", "output", True)
    assert done.stdout.startswith("first\nxxx")
    assert len(done.stdout) == 1000


@pytest.mark.parametrize(("text", "kept"), [("é", "é" * 50), ("€", "€" * 33), ("😀", "😀" * 25)])
def test_cut_output_is_whole_utf8(run_js, text, kept):
    """Output is counted in bytes of UTF-8 and never cut inside a character."""
    assert run_js(Job(f"print('{text}'.repeat(1000))", limits=Limits(output=101))).stdout == kept


def test_caught_errors_do_not_end_the_job(run_js):
    """A snippet that catches its stack overflow and its lack of memory goes on."""
    program = """
    try { (function f() { f() })() } catch (e) { print(e.name) }
    try { const a = []; for (;;) a.push(new ArrayBuffer(2 ** 22)) } catch (e) { print(e.message) }
    """
    done = run_js(Job(program, limits=LIMITS))
    assert (done.status, done.stdout) == ("ok", "RangeError\nout of memory\n")


SPOILED = {
    "toJSON": "Object.prototype.toJSON = Array.prototype.toJSON = String.prototype.toJSON = () => 'forged'",
    "JSON": "JSON.stringify = JSON.parse = () => { throw 1 }",
    "arrays": "const a = Array.prototype; for (const k of Object.getOwnPropertyNames(a)) try { a[k] = 0 } catch {}",
    "array elements": "Object.defineProperty(Array.prototype, 0, {set() { throw 1 }, get() { throw 1 }})",
    "strings": "const s = String.prototype; for (const k of Object.getOwnPropertyNames(s)) try { s[k] = 0 } catch {}",
    "patterns": "RegExp.prototype.exec = RegExp.prototype.test = () => { throw 1 }",
    "promises": "Promise.prototype.then = Promise.resolve = null; Object.prototype.then = null",
    "functions": "Function.prototype.call = Function.prototype.apply = Function.prototype.bind = null",
    "objects": "Object.keys = Object.assign = Reflect.apply = Reflect.ownKeys = null; Math.max = null",
    "inherited terms": "Object.prototype.tools = ['other']; Object.prototype.output = 1e9; Object.prototype.limit = ''",
    "the world": "for (const k of Object.getOwnPropertyNames(globalThis)) try { globalThis[k] = null } catch {}",
    "errors": "Error.prepareStackTrace = () => { throw 1 }; Error.prototype.toString = null",
    "maps": "Map.prototype.get = Map.prototype.set = Set.prototype.has = null",
    "constructors": "Object.prototype.constructor = null; Error.prototype.name = {}",
}


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_builtins_spoil_the_snippets_own_result_only(run_js, name):
    """Whatever a snippet replaces, its answer is readable and within its limits, and the next one is unaffected."""
    for ending in (
        "print([1, {a: 'b'}]); 1",
        "throw new Error('x')",
        "for (;;) print('x'.repeat(99))",
        "call('other')",
    ):
        done = run_js(Job(f"const print0 = print;\n{SPOILED[name]};\n{ending}", limits=LIMITS))
        assert done.status in ("ok", "error", "limit"), done
        assert "unreadable" not in done.stderr
        assert len(done.stdout) <= LIMITS.output
        assert done.usage.host_calls == 0
    following = run_js(Job("print([1, {a: 'b'}]); JSON.stringify({a: [1]})"))
    assert (following.stdout, following.value) == ("[ 1, { a: 'b' } ]\n", '{"a":[1]}')


PLANT = """
const marker = %s;
globalThis.leak = Object.prototype.leak = Array.leak = JSON.leak = console.leak = marker + 'a';
args.leak = marker.repeat(1000);
globalThis[marker] = Symbol.for(marker);
writeFile('leak', marker.repeat(10));
const bytes = new TextEncoder().encode(marker.repeat(1e4));
const waiting = new Promise(() => marker);
class Leak { static text = marker + 'b' }
for (let i = 0; i < 2000; i++) globalThis['k' + i] = marker + i;
print(marker);
"""
LOOK = "[typeof leak, ({}).leak, Array.leak, JSON.leak, console.leak, args.leak, listFiles(), Object.keys(globalThis)]"
ENDINGS = (
    "1",
    "throw new Error(marker)",
    "for (;;);",
    "(function f() { f(marker) })()",
    "new ArrayBuffer(2 ** 30)",
    "call('t')",
)


def in_a_thread(work: Callable[[], None]) -> None:
    """Runs `work` where a guest has the stack it has in a worker. Raises what it raises."""
    before = threading.stack_size(THREAD_STACK)
    try:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(work).result()
    finally:
        threading.stack_size(before)


def stop(name: str, args: str) -> str:
    raise Stopped("returned", args) if name.startswith(".") else CallRefused(name)


def test_no_later_vm_holds_what_an_earlier_one_wrote():
    """A secret in globals, prototypes, strings and buffers, however its run ended, is in no later VM's memory."""
    secret = hashlib.sha256(b"planted").hexdigest()
    terms = json.dumps({"seed": 1, "now": 1, "output": 5000, "files_out": 0, "tools": ["t"], "files": {}})

    def once(guest: JsGuest, program: str) -> tuple[str, bytes]:
        vm = guest.fresh()
        guest.limit(vm, 64 * MIB)
        alarm = threading.Timer(0.3, guest.engine.increment_epoch)
        alarm.start()
        try:
            answer = guest.run(vm, {"program": program, "args": "{}", "terms": terms})
        except (Stopped, CallRefused, Trap) as error:
            answer = type(error).__name__
        finally:
            alarm.cancel()
            alarm.join()
        memory = vm.read(0, vm.size())
        guest.close(vm)
        return answer, memory

    def work() -> None:
        folder = Path(os.environ.get("TOOLGATE_GUESTS", DEFAULT_FOLDER)).expanduser()
        guest = JsGuest(str(ensure_js(folder).cwasm), stop)
        clean, _ = once(guest, LOOK)
        for ending in ENDINGS:
            _answer, memory = once(guest, PLANT % json.dumps(secret) + ending)
            assert secret.encode() in memory
            for _ in range(1000 // len(ENDINGS) + 1):
                answer, memory = once(guest, LOOK)
                assert answer == clean
                assert secret.encode() not in memory

    in_a_thread(work)
