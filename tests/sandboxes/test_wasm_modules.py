"""The backend `wasm` as a whole: workers per program, their bound, what it refuses, and that it leaves nothing."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandboxes.model import GUARANTEES, Exit, Job, Limits, SandboxUnavailable
from sandboxes.modules import register
from sandboxes.wasm_modules import WasmModules
from tests.sandboxes import programs

PATIENCE = 90
SAYS = (
    '(module (import "{wasi}" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))'
    '(memory (export "memory") 1) (data (i32.const 8) "{word}")'
    '(func (export "_start") (i32.store (i32.const 0) (i32.const 8)) (i32.store (i32.const 4) (i32.const {size}))'
    "(drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))))"
)
WORDS = ("one", "two", "three")
Scenario = Callable[[WasmModules, dict[str, str]], Awaitable[None]]


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    """Programs that say a word each, and one that loops."""
    texts = {word: SAYS.format(wasi=programs.WASI, word=word, size=len(word)) for word in WORDS}
    texts["loop"] = programs.LOOP_AT_START
    return dict(zip(texts, programs.assemble(texts.values()), strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of guests of our own."""
    folder = tmp_path / "guests"
    folder.mkdir(mode=0o700)
    return folder


def play(folder: Path, made: dict[str, bytes], scenario: Scenario, pools: int = 4) -> None:
    """Plays a scenario with a started backend and the digests of the programs; no process may be left."""

    async def whole() -> frozenset[int]:
        digests = {name: register(folder, content).digest for name, content in made.items()}
        backend = WasmModules(folder, workers=1, pools=pools)
        await backend.start()
        pids: frozenset[int] = frozenset()
        try:
            await scenario(backend, digests)
            pids = backend.pids
        finally:
            await backend.close()
        return pids

    pids = asyncio.run(asyncio.wait_for(whole(), PATIENCE))
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def working(backend: WasmModules) -> None:
    """Waits until there is a worker."""
    while not backend.pids:  # noqa: ASYNC110  # a start sends no event
        await asyncio.sleep(0.01)


def test_workers_start_at_the_first_call_and_serve_one_program(folder: Path, made: dict[str, bytes]) -> None:
    """Nothing runs before a call; each program has a worker of its own, which stays."""

    async def scenario(backend: WasmModules, digests: dict[str, str]) -> None:
        assert backend.pids == frozenset()
        said = [(await backend.run(Job(module=digests[word]))).stdout for word in (*WORDS, *WORDS)]
        assert said == [*WORDS, *WORDS]
        assert len(backend.pids) == 3

    play(folder, made, scenario)


def test_the_longest_idle_program_makes_room(folder: Path, made: dict[str, bytes]) -> None:
    """With room for two, a third program's workers replace those not used for longest, and nobody notices."""

    async def scenario(backend: WasmModules, digests: dict[str, str]) -> None:
        first = await backend.run(Job(module=digests["one"]))
        await backend.run(Job(module=digests["two"]))
        again = await backend.run(Job(module=digests["one"]))
        assert again.sandbox_id.partition("-")[0] == first.sandbox_id.partition("-")[0]
        assert (await backend.run(Job(module=digests["three"]))).stdout == "three"
        assert len(backend.pids) == 2
        kept = await backend.run(Job(module=digests["one"]))
        assert kept.sandbox_id.partition("-")[0] == first.sandbox_id.partition("-")[0]
        said = await asyncio.gather(*(backend.run(Job(module=digests[word])) for word in WORDS * 4))
        assert [each.stdout for each in said] == [*WORDS] * 4

    play(folder, made, scenario, pools=2)


def test_busy_workers_are_waited_for_and_never_taken(folder: Path, made: dict[str, bytes]) -> None:
    """With room for one, another program waits until the first is done, or gives up at its own deadline."""

    async def scenario(backend: WasmModules, digests: dict[str, str]) -> None:
        looping = asyncio.create_task(backend.run(Job(module=digests["loop"], limits=Limits(wall=2.0))))
        await working(backend)
        early = await backend.run(Job(module=digests["one"], deadline=time.monotonic() + 0.2))
        assert (early.status, "in time" in early.stderr) == ("unavailable", True)
        assert (await backend.run(Job(module=digests["one"]))).stdout == "one"
        assert (await looping).status == "timeout"

    play(folder, made, scenario, pools=1)


def test_an_unknown_digest_is_refused(folder: Path, made: dict[str, bytes]) -> None:
    """A call of a program that is not registered is unavailable and says so; `known` tells it at load."""

    async def scenario(backend: WasmModules, digests: dict[str, str]) -> None:
        unknown = "sha256:" + "0" * 64
        assert backend.known(unknown) is None
        assert backend.known(digests["one"]) is not None
        for digest in (unknown, "", "../../etc/passwd"):
            done = await backend.run(Job(module=digest))
            assert (done.status, done.stderr) == (
                "unavailable",
                f"wasm: no program with the digest {digest!r} is registered\n",
            )

    play(folder, made, scenario)


def test_a_program_altered_on_disk_is_not_run(folder: Path, made: dict[str, bytes]) -> None:
    """Neither other bytes under its name nor other native code is run, though both were right when registered."""

    async def scenario(backend: WasmModules, digests: dict[str, str]) -> None:
        one, two = backend.known(digests["one"]), backend.known(digests["two"])
        assert one is not None
        assert two is not None
        assert one.cwasm is not None
        assert two.cwasm is not None
        one.cwasm.write_bytes(two.cwasm.read_bytes())
        done = await backend.run(Job(module=one.digest))
        assert (done.status, "register it again" in done.stderr) == ("unavailable", True)
        with pytest.raises(SandboxUnavailable, match="register it again"):
            backend.known(one.digest)
        (folder / "modules" / f"{two.digest[7:]}.wasm").write_bytes(made["one"])
        done = await backend.run(Job(module=two.digest))
        assert (done.status, "is registered" in done.stderr) == ("unavailable", True)

    play(folder, made, scenario)


def test_native_code_changed_after_the_look_is_refused_by_the_worker(folder: Path, made: dict[str, bytes]) -> None:
    """The worker reads the file once and compares it with its name, so there is no moment in which to change it."""

    async def scenario(backend: WasmModules, digests: dict[str, str]) -> None:
        module = register(folder, made["one"])
        assert module.cwasm is not None
        pool = backend._pool(module)
        module.cwasm.write_bytes(module.cwasm.read_bytes()[:-1] + b"\0\0")
        with pytest.raises(SandboxUnavailable, match="not the one that was registered"):
            await pool.start()
        await pool.close()

    play(folder, made, scenario)


def test_demands_are_held_against_what_is_given(folder: Path, made: dict[str, bytes]) -> None:
    """A job whose demand is not met does not run; all that the backend promises may be demanded."""

    async def scenario(backend: WasmModules, digests: dict[str, str]) -> None:
        done = await backend.run(Job(module=digests["one"], require=frozenset({"no-shared-kernel"})))
        assert (done.status, "no-shared-kernel" in done.stderr) == ("unavailable", True)
        done = await backend.run(Job(module=digests["one"], require=backend.guarantees))
        assert (done.status, done.stdout) == ("ok", "one")
        assert done.guarantees >= backend.guarantees
        assert backend.guarantees < frozenset(GUARANTEES)

    play(folder, made, scenario)


def test_a_cancelled_call_leaves_no_worker_busy(folder: Path, made: dict[str, bytes]) -> None:
    """Cancelling kills the worker; the next call of the program gets another, and closing ends what still runs."""

    async def scenario(backend: WasmModules, digests: dict[str, str]) -> None:
        looping = asyncio.create_task(backend.run(Job(module=digests["loop"])))
        await working(backend)
        looping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looping
        done = await backend.run(Job(module=digests["loop"], limits=Limits(wall=0.2), deadline=time.monotonic() + 60))
        assert done.status == "timeout"

    play(folder, made, scenario)


def test_a_closed_backend_is_unavailable(folder: Path, made: dict[str, bytes]) -> None:
    """After `close` nothing is started any more."""

    async def whole() -> Exit:
        digest = register(folder, made["one"]).digest
        backend = WasmModules(folder, workers=1)
        await backend.start()
        await backend.close()
        return await backend.run(Job(module=digest))

    done = asyncio.run(asyncio.wait_for(whole(), PATIENCE))
    assert (done.status, done.stderr) == ("unavailable", "wasm: the backend is closed\n")


# Given "p" it writes a secret wherever a program can; given anything else it looks there for whatever is not zero.
KEEPER = """
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 16)
  (global $kept (mut i64) (i64.const 0))
  (table $kept_too 64 funcref)
  (elem declare func $say)
  (data (i32.const 64) "clean\\nfound\\n")
  (func $say (param $at i32)
    (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (i32.const 6))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $plant (local $at i32)
    (global.set $kept (i64.const 0x5ec7e75ec7e75ec7))
    (table.fill $kept_too (i32.const 0) (ref.func $say) (i32.const 64))
    (drop (memory.grow (i32.const 16)))
    (local.set $at (i32.const 4096))
    (loop $next
      (i64.store (local.get $at) (i64.const 0x5ec7e75ec7e75ec7))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 2097152)))))
  (func $look (result i32) (local $at i32)
    (if (i64.ne (global.get $kept) (i64.const 0)) (then (return (i32.const 70))))
    (if (i32.eqz (ref.is_null (table.get $kept_too (i32.const 63)))) (then (return (i32.const 70))))
    (if (i32.ne (memory.size) (i32.const 16)) (then (return (i32.const 70))))
    (drop (memory.grow (i32.const 16)))
    (local.set $at (i32.const 4096))
    (loop $next
      (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (return (i32.const 70))))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 2097152))))
    (i32.const 64))
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 32)) (i32.store (i32.const 4) (i32.const 1))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (i32.eq (i32.load8_u (i32.const 32)) (i32.const 112))
      (then (call $plant) (call $say (call $look)))
      (else (call $say (call $look))))))
"""
LATER = 1000


def test_no_later_instance_holds_what_an_earlier_one_wrote(folder: Path) -> None:
    """A secret in memory, grown memory, a global and a table is found by the run that wrote it, and by none later."""
    (program,) = programs.assemble([KEEPER])
    digest = register(folder, program).digest

    async def whole() -> list[str]:
        backend = WasmModules(folder, workers=1)
        await backend.start()
        try:
            inputs = [b"p", *[b"l"] * LATER]
            return [(await backend.run(Job(module=digest, input=given))).stdout for given in inputs]
        finally:
            await backend.close()

    said = asyncio.run(asyncio.wait_for(whole(), PATIENCE))
    assert said[0] == "found\n"
    assert set(said[1:]) == {"clean\n"}
