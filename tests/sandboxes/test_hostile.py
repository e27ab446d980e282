"""Snippets that try to take more than they were given, each followed by one that must not notice."""

import pytest

from sandboxes.model import MIB, Job, Limits
from sandboxes.pool import WasmPython

LIMITS = Limits(wall=5.0, memory=64 * MIB, output=10_000, host_calls=3)
SHORT = Limits(wall=0.3)

CASES = {
    "endless loop": ("while True: pass", SHORT, "timeout", None),
    "endless loop that catches everything": (
        "while True:\n try:\n  while True: pass\n except BaseException: pass",
        SHORT,
        "timeout",
        None,
    ),
    "endless loop in C": ("sum(iter(int, 1))", SHORT, "timeout", None),
    "endless loop in a traceback": (
        "class E(Exception):\n def __str__(s):\n  while 1: pass\nraise E",
        SHORT,
        "timeout",
        None,
    ),
    "catastrophic pattern": ("import re; re.match('(a+)+$', 'a' * 64 + 'b')", SHORT, "timeout", None),
    "huge power": ("9 ** 9 ** 9", SHORT, "timeout", None),
    "sleep": ("import time; time.sleep(9)", LIMITS, "error", None),
    "blocking lock": ("import threading; a = threading.Lock(); a.acquire(); a.acquire()", LIMITS, "error", None),
    "thread": ("import threading; threading.Thread(target=print).start()", LIMITS, "error", None),
    "one GiB": ("x = bytearray(1 << 30)", LIMITS, "limit", "memory"),
    "growing list": ("x = []\nwhile True: x.append(x[:])", LIMITS, "limit", "memory"),
    "growing strings": ("x = []\nwhile True: x.append('y' * 1000 + str(len(x)))", LIMITS, "limit", "memory"),
    "nested list repr": ("x = []\nfor _ in range(100_000): x = [x]\nrepr(x)", LIMITS, "limit", "stack"),
    "nested JSON": ("import json; json.loads('[' * 100_000)", LIMITS, "limit", "stack"),
    "nested attributes": ("compile('a' + '.b' * 100_000, 'x', 'eval')", LIMITS, "limit", "stack"),
    "nested tuple dropped": ("x = None\nfor _ in range(300_000): x = (x,)\ndel x", LIMITS, "limit", "stack"),
    "no recursion limit": ("import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", LIMITS, "limit", "stack"),
    "recursion": ("def f(): f()\nf()", LIMITS, "error", None),
    "recursion in repr": ("class A:\n def __repr__(s): return repr(s)\nrepr(A())", LIMITS, "error", None),
    "nested parentheses": ("compile('(' * 100_000 + ')' * 100_000, 'x', 'eval')", LIMITS, "error", None),
    "abort": ("import os; os.abort()", LIMITS, "error", None),
    "hard exit": ("import os; os._exit(3)", LIMITS, "error", None),
    "100 MB at once": ("print('x' * 100_000_000)", Limits(output=10_000, memory=256 * MIB), "limit", "output"),
    "100 MB in lines": ("for _ in range(100_000): print('x' * 999)", LIMITS, "limit", "output"),
    "output caught": ("while True:\n try: print('x' * 999)\n except BaseException: pass", LIMITS, "limit", "output"),
    "output on stderr": ("import sys\nwhile True: sys.stderr.write('x' * 999)", LIMITS, "limit", "output"),
    "output as result": ("result = 'x' * 20_000", LIMITS, "limit", "output"),
    "host call flood": ("while True: call('t')", LIMITS, "limit", "host_calls"),
    "host call flood caught": (
        "while True:\n try: call('t')\n except BaseException: pass",
        LIMITS,
        "limit",
        "host_calls",
    ),
}


async def answer(_name: str, _args: bytes) -> bytes:
    return b"1"


@pytest.mark.parametrize("name", CASES)
def test_it_ends_as_classed_and_the_next_job_is_unaffected(play, name):
    """Every hostile snippet ends with its own status, and the next job on the same worker gives its plain answer."""
    program, limits, status, limit = CASES[name]

    async def scenario(pool: WasmPython) -> None:
        done = await pool.run(Job(program, tools=frozenset({"t"}), limits=limits), answer)
        assert (done.status, done.limit) == (status, limit), done
        following = await pool.run(Job("print(6 * 7); result = sorted(globals())"))
        assert (following.status, following.stdout) == ("ok", "42\n")
        assert following.value == [
            "ToolError",
            "__builtins__",
            "__doc__",
            "__loader__",
            "__name__",
            "__package__",
            "__spec__",
            "args",
            "call",
            "fetch",
            "tools",
        ]

    play(scenario)


@pytest.mark.parametrize("write", ["print('x' * 100_000_000)", "for _ in range(10_000): print('x' * 99)"])
def test_the_first_part_of_too_much_output_is_kept(play, write):
    """Output past its limit ends the job with exactly the limit's bytes kept and `truncated` set."""

    async def scenario(pool: WasmPython) -> None:
        done = await pool.run(Job(f"print('first')\n{write}", limits=Limits(output=1000, memory=256 * MIB)))
        assert (done.status, done.limit, done.truncated) == ("limit", "output", True)
        assert done.stdout.startswith("first\nxxx")
        assert len(done.stdout) == 1000

    play(scenario)


def test_cut_output_is_whole_utf8(play):
    """Output is counted in bytes of UTF-8 and never cut inside a character."""

    async def scenario(pool: WasmPython) -> None:
        done = await pool.run(Job("print('é' * 1000)", limits=Limits(output=101)))
        assert done.stdout == "é" * 50

    play(scenario)


def test_caught_errors_do_not_end_the_job(play):
    """A snippet that catches its RecursionError and its MemoryError goes on."""
    program = """
def f(): f()
try: f()
except RecursionError: print("deep")
try: bytearray(1 << 30)
except MemoryError: print("large")
"""

    async def scenario(pool: WasmPython) -> None:
        done = await pool.run(Job(program, limits=LIMITS))
        assert (done.status, done.stdout) == ("ok", "deep\nlarge\n")

    play(scenario)


HOST = """import wit_world.imports.host as host, json
FAIR = dict(ok=True, limit=None, stdout='', stderr='', truncated=False, result=1)
"""
FORGERIES = {
    "a broken capture": "import sys; sys.stdout.output.left = 10**12; print('x' * 200_000)",
    "a long answer": HOST + "host.call('.exit', json.dumps(dict(FAIR, stdout='x' * 50_000)))",
    "a number that is none": HOST
    + "host.call('.exit', json.dumps(dict(FAIR, result=float('inf'))).replace('Infinity', '1e999'))",
    "no answer at all": HOST + "host.call('.exit', '')",
    "an answer of 30 MB": HOST + "host.call('.exit', 'x' * 30_000_000)",
    "an answer of another shape": HOST + "host.call('.exit', '[1]')",
    "a deep answer": HOST + "host.call('.exit', '[' * 100_000)",
    "json replaced": HOST
    + "json.dumps = json.encoder.JSONEncoder.encode = lambda *a, **k: 'x' * 9_000_000; result = 1",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_answer_is_held_to_the_limits(play, name):
    """Whatever the guest claims, the texts that come out stay within the output limit and no error escapes."""

    async def scenario(pool: WasmPython) -> None:
        done = await pool.run(Job(FORGERIES[name], limits=LIMITS))
        assert done.status in ("error", "limit")
        assert len(done.stdout) <= LIMITS.output
        assert len(done.stderr) <= LIMITS.output
        assert (await pool.run(Job("print(1)"))).stdout == "1\n"

    play(scenario)
