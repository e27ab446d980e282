"""What a snippet finds inside: Python's standard library, a given clock and seed, and nothing outside."""

import json

import pytest

from sandboxes.model import Exit, Job
from sandboxes.pool import WasmPython

NOW = 1_700_000_000.25

RIGHT = {
    "args and result": ("result = {'twice': [a * 2 for a in args]}", "", {"twice": [2, 4]}),
    "tuples are arrays": ("result = (1, 'é', None)", "", [1, "é", None]),
    "lone surrogates are replaced": ("print('a\\ud800'); result = '\\udfff'", "a?\n", "?"),
    "emoji survive": ("print('😀'); result = '😀'", "😀\n", "😀"),
    "the clock": ("import time; print(time.time())", "1700000000.25\n", None),
    "the date": (
        "import datetime as d; print(d.datetime.now(d.UTC), d.date.today())",
        "2023-11-14 22:13:20.250000+00:00 2023-11-14\n",
        None,
    ),
    "one datetime type": (
        "import datetime as d; n = d.datetime.now()\nprint(type(n + d.timedelta()) is type(n), isinstance(n, d.date))",
        "True True\n",
        None,
    ),
    "the clock moves on": ("import time; a = time.perf_counter(); print(time.perf_counter() > a)", "True\n", None),
    "early importers have the clock": (
        "import timeit, queue; print(timeit.timeit('1', number=1), queue.Queue().qsize())",
        "1e-06 0\n",
        None,
    ),
    "dataclasses and pickle": (
        "import pickle, dataclasses as d\n@d.dataclass\nclass P:\n x: int\nprint(pickle.loads(pickle.dumps(P(1))))",
        "P(x=1)\n",
        None,
    ),
    "codecs": (
        "print('é'.encode('latin-1'), 'x'.encode('utf-16-le'), 'ü'.encode('idna'))",
        "b'\\xe9' b'x\\x00' b'xn--tda'\n",
        None,
    ),
    "bytes to stdout": ("import sys; sys.stdout.buffer.write(b'hi\\n'); sys.stdout.flush()", "hi\n", None),
    "strptime": (
        "import datetime as d; print(d.datetime.strptime('2020-01-02', '%Y-%m-%d'))",
        "2020-01-02 00:00:00\n",
        None,
    ),
    "main is a module": ("import __main__; x = 1; print(__main__.x, __name__)", "1 __main__\n", None),
    "exit without an error": ("print(1); import sys; sys.exit()", "1\n", None),
    "no environment": (
        "import os; print(dict(os.environ), os.getcwd(), os.path.exists('/etc/passwd'))",
        "{} /job False\n",
        None,
    ),
    "evaluated syntax errors": ("try: exec('1 +')\nexcept SyntaxError as e: print(e.msg)", "invalid syntax\n", None),
    "arguments of a command line": (
        "import argparse; print(argparse.ArgumentParser().parse_args())",
        "Namespace()\n",
        None,
    ),
    "sockets are missed quietly": (
        "try: import socket\nexcept ImportError as e: print(e)",
        "No module named 'socket'\n",
        None,
    ),
    "garbage is collected": ("import gc; print(gc.isenabled(), gc.get_freeze_count() > 1000)", "True True\n", None),
}

WRONG = {
    "the line is quoted": (
        "x = 1\nprint(x)\nraise ValueError('no' + 'pe')",
        ["line 3, in <module>", "raise ValueError('no' + 'pe')", "ValueError: nope"],
    ),
    "chained errors": (
        "try: 1/0\nexcept Exception as e: raise KeyError('k') from e",
        ["ZeroDivisionError", "line 2", "KeyError: 'k'"],
    ),
    "syntax": ("x = 1\ny = (2", ['File "<tool>", line 2', "    y = (2\n        ^\nSyntaxError: '(' was never closed"]),
    "syntax of a text": ("exec('a b', {})", ['File "<string>", line 1', "SyntaxError: invalid syntax"]),
    "a null byte": ("print(1)\0", ["source code string cannot contain null bytes"]),
    "names": ("total = 1\nprint(totl + 1)", ["NameError: name 'totl' is not defined. Did you mean: 'total'?"]),
    "a module not imported": ("json.dumps(1)", ["Did you forget to import 'json'?"]),
    "suggestions": ("'a'.lowr()", ["Did you mean: 'lower'?"]),
    "missing module": (
        "import numpy",
        ["ModuleNotFoundError: No module named 'numpy'", "numpy is not here: use lists with math"],
    ),
    "no sockets": (
        "import socket",
        ["ModuleNotFoundError: No module named 'socket'", "socket is not here: use fetch(url)."],
    ),
    "no requests": ("import requests", ["requests is not here: use fetch(url)."]),
    "no pandas": ("import pandas as pd", ["pandas is not here: use csv, json, collections and statistics."]),
    "no urllib.request": ("from urllib.request import urlopen", ["urllib.request is not here: use fetch(url)."]),
    "no processes": ("import subprocess", ["subprocess is not here: no other program runs here"]),
    "a module nobody knows": (
        "import frobnicate",
        ["frobnicate is not here: only a part of Python's standard library"],
    ),
    "a module that hides another": (
        "import builtins\nraise ModuleNotFoundError('x', name=5)",
        ["ModuleNotFoundError: x"],
    ),
    "no ctypes": ("import ctypes", ["ModuleNotFoundError"]),
    "no descriptors": ("import os; os.write(1, b'x')", ["PermissionError: os.write is not available"]),
    "no input": ("input()", ["PermissionError: input is not available"]),
    "sleep": ("import time; time.sleep(9)", ["PermissionError: time.sleep is not available in this sandbox"]),
    "result that is not JSON": ("result = {1, 2}", ["result is not JSON: TypeError: Object of type set"]),
    "result that is not finite": ("result = float('nan')", ["result is not JSON: ValueError"]),
    "result of big integers": ("print(2**80); result = [2**80]", ["beyond 64 bits"]),
    "result that is a circle": ("result = []; result.append(result)", ["result is not JSON"]),
    "result that is deep": ("result = []\nfor _ in range(100): result = [result]", ["nested deeper than 64"]),
    "exit with a text": ("import sys; sys.exit('sorry')", ["sorry\n"]),
    "exit with a number": ("raise SystemExit(3)", ["SystemExit: 3"]),
    "exit with what cannot be shown": (
        "class A:\n def __repr__(s): return repr(s)\nraise SystemExit(A())",
        ["SystemExit (its code could not be shown: RecursionError)"],
    ),
    "an error that raises when shown": (
        "class E(Exception):\n def __str__(s): raise KeyboardInterrupt\nraise E()",
        ["E: <exception str() failed>"],
    ),
    "an error without an end": ("class A:\n def __repr__(s): return repr(s)\nraise ValueError(A())", ["ValueError"]),
    "an error that cannot be shown": ("class E(Exception):\n def __str__(s): raise s\nraise E()", ["E"]),
    "an endless error": ("raise ValueError('x' * 1_000_000)", ["ValueError: xxx", "..."]),
}


def run(play, job: Job) -> Exit:
    seen: list[Exit] = []

    async def scenario(pool: WasmPython) -> None:
        seen.append(await pool.run(job))

    play(scenario, spares=0)
    return seen[0]


@pytest.mark.parametrize("name", RIGHT)
def test_what_works(play, name):
    """The snippet prints and leaves behind exactly what plain Python would, given this clock and these args."""
    program, stdout, value = RIGHT[name]
    done = run(play, Job(program, b"[1, 2]", now=NOW))
    assert (done.status, done.stdout, done.value) == ("ok", stdout, value), done


@pytest.mark.parametrize("name", WRONG)
def test_what_fails_says_why(play, name):
    """The job ends as an error whose text names the reason, and without a frame of the sandbox's own code."""
    program, parts = WRONG[name]
    done = run(play, Job(program))
    assert done.status == "error"
    assert [part for part in parts if part not in done.stderr] == [], done.stderr
    assert "prelude.py" not in done.stderr
    assert "world.py" not in done.stderr


def test_input_that_is_not_json_is_an_error(play):
    """Arguments that are no JSON end the job as an error, not as a crash."""
    assert run(play, Job("print(1)", b"{")).status == "error"


RANDOM = """
import random, uuid, secrets, os, time, datetime
r = random.Random()
drawn = [random.random(), r.random(), str(uuid.uuid4()), secrets.token_hex(), os.urandom(9).hex()]
drawn += [random.SystemRandom().random(), str(uuid.uuid1())]
given = [time.time(), time.monotonic(), str(datetime.datetime.now()), hash("x"), id(object())]
result = [drawn, given]
"""


def test_the_same_seed_and_clock_give_the_same_bytes(play):
    """Two runs with one seed agree in every byte; another seed changes each random draw and no clock."""

    async def scenario(pool: WasmPython) -> None:
        one, two, other = [await pool.run(Job(RANDOM, seed=seed, now=NOW)) for seed in (7, 7, 8)]
        assert one.status == "ok", one.stderr
        assert json.dumps(one.value) == json.dumps(two.value)
        assert isinstance(one.value, list)
        assert isinstance(other.value, list)
        (drawn, given), (drawn_anew, given_again) = one.value, other.value
        assert [a for a, b in zip(drawn, drawn_anew, strict=True) if a == b] == []
        assert given == given_again

    play(scenario)
