"""A worker that has been taken over: whatever it sends, the parent answers its caller and goes on."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from sandboxes.frames import pack, pack_json
from sandboxes.guests.build import ensure
from sandboxes.model import Job, Limits
from sandboxes.pool import WasmPython
from sandboxes.wasm import python_worker

# The first worker says READY, then WORDS when the first job arrives; those started after it are real ones.
PROGRAM = """
import os, socket, struct, sys, time
flag, ready, words, *real, descriptor, parent = sys.argv[1:]
words = open(words, "rb").read()
if os.path.exists(flag):
    os.execv(real[0], [*real, descriptor, parent])
open(flag, "w").close()
channel = socket.socket(fileno=int(descriptor))
channel.sendall(bytes.fromhex(ready))
channel.recv(100_000)
try:
    channel.sendall(words)
    time.sleep(60)
except OSError:
    pass
"""
READY = pack_json({"kind": "ready"})
RETURNED = pack_json({"kind": "exit", "how": "returned", "ms": 1})
CALL = pack_json({"kind": "call", "name": "t", "args": "{}"})
FAIR = {"ok": True, "limit": None, "stdout": "", "stderr": "", "truncated": False, "result": None}

EVIL = {
    "a length of 4 GiB": b"\xff\xff\xff\xff",
    "a length just over the cap": (4 * 1024 * 1024).to_bytes(4, "big"),
    "no JSON": pack(b"\x80\x04pickle"),
    "no object": pack(b"[]"),
    "an empty frame": pack(b""),
    "deep JSON": pack(b"[" * 100_000),
    "a number that is none": pack(b'{"kind":"exit","how":"stack","ms":1e999}'),
    "an endless integer": pack(b'{"kind":"exit","how":"stack","ms":' + b"9" * 50_000 + b"}"),
    "an unknown kind": pack_json({"kind": "open", "path": "/etc/passwd"}),
    "a kind that is a list": pack_json({"kind": ["exit"]}),
    "ready again": READY,
    "an exit of unknown kind": pack_json({"kind": "exit", "how": "ok", "ms": 1}),
    "an exit of another shape": pack_json({"kind": "exit", "how": ["returned"], "ms": 1}),
    "an exit without a time": pack_json({"kind": "exit", "how": "stack"}),
    "a call of another shape": pack_json({"kind": "call", "name": 7, "args": "{}"}),
    "a call of bytes that are no UTF-8": pack(b'{"kind":"call","name":"\xff","args":"{}"}'),
    "more calls than allowed": CALL * 3,
    "calls in one flood": CALL * 5000,
    "more frames than a job has": (RETURNED + pack_json(FAIR)) * 3,
}


def scripted(tmp_path: Path, guests: Path, ready: bytes, words: bytes) -> list[str]:
    script = tmp_path / "worker.py"
    script.write_text(PROGRAM)
    said = tmp_path / "words"
    said.write_bytes(words)
    real = python_worker(str(ensure(guests).cwasm))
    return [sys.executable, "-I", str(script), str(tmp_path / "flag"), ready.hex(), str(said), *real]


@pytest.mark.parametrize("name", EVIL)
def test_a_breach_of_the_language_is_a_crash(tmp_path, guests, name):
    """A worker that breaks the language is killed, its job ends as crashed, and the next job runs on a real one."""

    async def answer(_name: str, _args: bytes) -> bytes:
        return b"1"

    async def scenario() -> None:
        argv = scripted(tmp_path, guests, READY, EVIL[name])
        pool = WasmPython(worker_argv=argv, workers=1, spares=0)
        await pool.start()
        try:
            limits = Limits(output=1000, host_calls=2)
            done = await pool.run(Job("print(1)", tools=frozenset({"t"}), limits=limits), answer)
            assert (done.status, done.stdout, done.stderr) == ("crashed", "", "")
            assert (await pool.run(Job("print(2)"))).stdout == "2\n"
        finally:
            await pool.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_frames_sent_before_a_job_do_not_answer_it(tmp_path, guests):
    """A worker with an answer ready before the job was given is ended: the job runs on a real one."""

    async def scenario() -> None:
        forged = pack_json({**FAIR, "stdout": "forged"})
        argv = scripted(tmp_path, guests, READY + RETURNED, forged)
        pool = WasmPython(worker_argv=argv, workers=1, spares=0)
        await pool.start()
        try:
            done = await pool.run(Job("print(1)"))
            assert (done.status, done.stdout) == ("ok", "1\n")
        finally:
            await pool.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_worker_that_says_nothing_is_killed_on_time(tmp_path, guests):
    """A worker that never answers is killed after the wall limit and the job ends as a timeout."""

    async def scenario() -> None:
        pool = WasmPython(worker_argv=scripted(tmp_path, guests, READY, b"\0\0"), workers=1, spares=0)
        await pool.start()
        try:
            assert (await pool.run(Job("print(1)", limits=Limits(wall=0.2)))).status == "timeout"
            assert (await pool.run(Job("print(2)"))).stdout == "2\n"
        finally:
            await pool.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


# The first worker is a real one; those started after it say READY and no more.
LATER = """
import os, socket, sys, time
flag, ready, *real, descriptor, parent = sys.argv[1:]
if not os.path.exists(flag):
    open(flag, "w").close()
    os.execv(real[0], [*real, descriptor, parent])
socket.socket(fileno=int(descriptor)).sendall(bytes.fromhex(ready))
time.sleep(60)
"""


def test_a_demand_is_held_against_the_worker_that_would_run_the_job(tmp_path, guests):
    """A job whose demand its worker does not say it meets does not run, though the pool's other workers did meet it."""
    less = pack_json({"kind": "ready", "guarantees": ["no-network", "made-up"], "walls": {"seccomp": True}})

    async def scenario() -> None:
        script = tmp_path / "later.py"
        script.write_text(LATER)
        real = python_worker(str(ensure(guests).cwasm))
        argv = [sys.executable, "-I", str(script), str(tmp_path / "flag"), less.hex(), *real]
        pool = WasmPython(worker_argv=argv, workers=1, spares=0, runs_per_worker=1)
        await pool.start()
        try:
            demand = frozenset({"memory-cap"})
            assert pool.walls["no-new-privileges"]
            assert (await pool.run(Job("print(1)", require=demand))).stdout == "1\n"
            done = await pool.run(Job("print(1)", require=demand))
            assert (done.status, done.stderr) == ("unavailable", "wasm-python: memory-cap is not guaranteed\n")
            assert [wall for wall, stands in pool.walls.items() if stands] == ["seccomp"]
        finally:
            await pool.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize(
    "answer",
    ["", "7", "[]", "{}", json.dumps({**FAIR, "ok": 1}), json.dumps({**FAIR, "stdout": None}), "\0", "{" * 5000],
)
def test_an_answer_that_cannot_be_read_is_an_error(tmp_path, guests, answer):
    """A guest's answer of another shape ends the job as an error, and the worker stays."""

    async def scenario() -> None:
        argv = scripted(tmp_path, guests, READY, RETURNED + pack(answer.encode()))
        pool = WasmPython(worker_argv=argv, workers=1, spares=0)
        await pool.start()
        try:
            done = await pool.run(Job("print(1)"))
            assert (done.status, done.stderr) == ("error", "the sandbox returned something unreadable\n")
            assert len(pool.pids) == 1
        finally:
            await pool.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
