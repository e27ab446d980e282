"""WebAssembly programs for the tests, as text, and the way to their bytes. Nothing here runs in this process."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterable

ASSEMBLE = """
import base64, json, sys
from wasmtime import wat2wasm
print(json.dumps([base64.b64encode(wat2wasm(text)).decode() for text in json.load(sys.stdin)]))
"""

SHAPES = {
    "args_get": "ii",
    "args_sizes_get": "ii",
    "clock_time_get": "iIi",
    "environ_sizes_get": "ii",
    "fd_close": "i",
    "fd_fdstat_get": "ii",
    "fd_prestat_dir_name": "iii",
    "fd_prestat_get": "ii",
    "fd_read": "iiii",
    "fd_readdir": "iiiIi",
    "fd_seek": "iIii",
    "fd_write": "iiii",
    "path_filestat_get": "iiiii",
    "path_open": "iiiiiIIii",
    "random_get": "ii",
}
WASI = "wasi_snapshot_preview1"
TYPES = {"i": "i32", "I": "i64"}
# An errno as one character: a program of `calls` prints a line of them.
SHOWN_FROM = 32


def assemble(texts: Iterable[str]) -> list[bytes]:
    """The bytes of programs, made by wasmtime in a child."""
    argv = [sys.executable, "-I", "-c", ASSEMBLE]
    done = subprocess.run(argv, input=json.dumps(list(texts)), capture_output=True, text=True, check=True, timeout=60)
    return [base64.b64decode(each) for each in json.loads(done.stdout)]


def imported(*names: str) -> str:
    """Imports of WASI functions under their own names."""
    lines = []
    for name in names:
        params = " ".join(TYPES[letter] for letter in SHAPES[name])
        lines.append(f'(import "{WASI}" "{name}" (func ${name} (param {params}) (result i32)))')
    return "\n".join(lines)


def calls(made: list[tuple[str, tuple[int, ...]]], start: str = "", data: str = "", then: str = "") -> str:
    """A program that makes these WASI calls and prints the errno of each as a character. Its memory is one page."""
    steps = []
    for number, (name, values) in enumerate(made):
        given = " ".join(f"({TYPES[kind]}.const {value})" for kind, value in zip(SHAPES[name], values, strict=True))
        steps.append(
            f"(i32.store8 (i32.const {60000 + number}) (i32.add (call ${name} {given}) (i32.const {SHOWN_FROM})))"
        )
    return f"""(module {imported(*sorted({name for name, _ in made} | {"fd_write"}))}
      (memory (export "memory") 1) {data}
      (func (export "_start") {start} {" ".join(steps)} {then}
        (i32.store (i32.const 50000) (i32.const 60000)) (i32.store (i32.const 50004) (i32.const {len(made)}))
        (drop (call $fd_write (i32.const 1) (i32.const 50000) (i32.const 1) (i32.const 50008)))))"""


def errnos(stdout: str) -> list[int]:
    """What a program of `calls` printed, as numbers."""
    return [ord(each) - SHOWN_FROM for each in stdout]


def start(body: str, extra: str = "", imports: str = "") -> str:
    """A program that is one function `_start`."""
    return f'(module {imports} (memory (export "memory") 1) {extra} (func (export "_start") {body}))'


READ = """(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 60000))
  (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))"""
ECHO = start(
    READ + "(i32.store (i32.const 4) (i32.load (i32.const 8)))"
    "(drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))",
    imports=imported("fd_read", "fd_write"),
)
# What it does depends on the first character of its input, which is a JSON string.
MOODY = start(
    READ
    + """(local.set $mood (i32.load8_u (i32.const 65)))
  (if (i32.eq (local.get $mood) (i32.const 117)) (then (unreachable)))
  (if (i32.eq (local.get $mood) (i32.const 100)) (then (drop (i32.div_u (i32.const 1) (i32.const 0)))))
  (if (i32.eq (local.get $mood) (i32.const 111)) (then (drop (i32.load (i32.const -4)))))
  (if (i32.eq (local.get $mood) (i32.const 108)) (then (loop $l (br $l))))
  (if (i32.eq (local.get $mood) (i32.const 114)) (then (call $deep)))
  (if (i32.eq (local.get $mood) (i32.const 103))
    (then (loop $g (br_if $g (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
      (i32.store (i32.const 0) (i32.const 32)) (i32.store (i32.const 4) (i32.const 7))
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
  (if (i32.eq (local.get $mood) (i32.const 102))
    (then (i32.store (i32.const 4) (i32.const 60000))
      (loop $f (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $f))))
  (if (i32.eq (local.get $mood) (i32.const 120))
    (then (i32.store (i32.const 0) (i32.const 32)) (i32.store (i32.const 4) (i32.const 7))
      (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
      (call $proc_exit (i32.const 3))))""",
    extra='(data (i32.const 32) "refused") (func $deep (call $deep))',
    imports=imported("fd_read", "fd_write") + f'(import "{WASI}" "proc_exit" (func $proc_exit (param i32)))',
).replace('(func (export "_start")', '(func (export "_start") (local $mood i32)')
LOOP_AT_START = '(module (func $l (loop $x (br $x))) (start $l) (memory (export "memory") 1) (func (export "_start")))'
BIG = '(module (memory (export "memory") 1024) (func (export "_start")))'
TOOL = """(module
  (import "toolgate" "call" (func $call (param i32 i32 i32 i32) (result i32)))
  (import "toolgate" "result" (func $result (param i32)))
  %s
  (memory (export "memory") 1) (data (i32.const 16) "%s{}")
  (func (export "_start")
    (i32.store (i32.const 4) (call $call (i32.const 16) (i32.const %d) (i32.const %d) (i32.const 2)))
    (call $result (i32.const %d)) (i32.store (i32.const 0) (i32.const %d))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


def tool(name: str, into: int = 1000) -> str:
    """A program that calls a tool without arguments and prints the reply."""
    return TOOL % (imported("fd_write"), name, len(name), 16 + len(name), into, into)


COMPONENT = """(component
  (import "local:runner/host"
    (instance $host (export "call" (func (param "name" string) (param "args" string) (result string)))))
  (core module $libc (memory (export "memory") 2)
    (global $top (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
      (local.set $at (global.get $top))
      (global.set $top (i32.add (global.get $top) (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8))))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (core func $call (canon lower (func $host "call")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core module $m
    (import "libc" "memory" (memory 1))
    (import "host" "call" (func $call (param i32 i32 i32 i32 i32)))
    (data (i32.const 0) "t")
    (func (export "run") (param i32 i32) (result i32)
      %s
      (call $call (i32.const 0) (i32.const 1) (local.get 0) (local.get 1) (i32.const 16))
      (i32.const 16)))
  (core instance $m (instantiate $m
    (with "libc" (instance $libc)) (with "host" (instance (export "call" (func $call))))))
  (func $run (param "input" string) (result string) (canon lift (core func $m "run")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (export "run" (func $run)))"""
COMPONENT_AT_START = (COMPONENT % "").replace(
    '(func (export "run")',
    "(func $early (call $call (i32.const 0) (i32.const 1) (i32.const 8) (i32.const 2) (i32.const 16))) (start $early)"
    '(data (i32.const 8) "{}") (func (export "run")',
)
