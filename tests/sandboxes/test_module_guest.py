"""Programs of an operator's own in real workers: what they give, and how each way of going wrong ends."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sandboxes.model import MIB, CallRefused, Exit, Job, Limits
from sandboxes.modules import register
from sandboxes.wasm_modules import WasmModules
from tests.sandboxes import programs

PATIENCE = 90
BEYOND = 65536  # the first byte that is not the program's
ALL = 0xFFFFFFFF
# Each names memory that is not there, in one of its arguments; errno 21 is `fault`.
HOSTILE: dict[str, tuple[str, tuple[int, ...]]] = {
    "pieces that lie outside": ("fd_write", (1, BEYOND, 1, 8)),
    "pieces that begin inside": ("fd_write", (1, BEYOND - 4, 1, 8)),
    "pieces at the end of 4 GiB": ("fd_write", (1, ALL, 1, 8)),
    "a piece that lies outside": ("fd_write", (1, 100, 1, 8)),
    "a piece that wraps around": ("fd_write", (1, 108, 1, 8)),
    "a piece of 4 GiB": ("fd_write", (1, 116, 1, 8)),
    "a count of nowhere": ("fd_write", (1, 124, 1, ALL)),
    "input to outside": ("fd_read", (0, 100, 1, 8)),
    "input to 4 GiB": ("fd_read", (0, 116, 1, 8)),
    "a clock outside": ("clock_time_get", (0, 0, BEYOND - 7)),
    "random bytes to outside": ("random_get", (BEYOND - 1, 2)),
    "arguments outside": ("args_get", (0, ALL)),
    "a count of arguments outside": ("args_sizes_get", (ALL, 0)),
    "an environment outside": ("environ_sizes_get", (0, ALL)),
    "a descriptor's state outside": ("fd_fdstat_get", (1, BEYOND - 23)),
    "a folder's name outside": ("fd_prestat_dir_name", (3, BEYOND, 1)),
    "a folder's kind outside": ("fd_prestat_get", (3, BEYOND - 7)),
    "entries outside": ("fd_readdir", (3, BEYOND - 1, 1000, 0, 8)),
    "a path outside": ("path_open", (3, 0, BEYOND - 1, 2, 1, 2, 0, 0, 8)),
    "a stat outside": ("path_filestat_get", (3, 0, 140, 1, BEYOND - 63)),
}
# Pieces for the above: outside; beginning inside, and 4 GiB less 16 long; 4 GiB long; a good one. Then the path "a".
PIECES = '(data (i32.const 100) "\\00\\00\\01\\00\\01\\00\\00\\00\\20\\00\\00\\00\\f0\\ff\\ff\\ff'
PIECES += '\\00\\00\\00\\00\\ff\\ff\\ff\\ff\\20\\00\\00\\00\\01\\00\\00\\00") (data (i32.const 140) "a")'
TOO_MUCH: dict[str, tuple[str, tuple[int, ...]]] = {
    "a thousand and more pieces": ("fd_write", (1, 124, 1025, 8)),
    "every piece there can be": ("fd_write", (1, 0, ALL, 8)),
    "every piece to read": ("fd_read", (0, 0, ALL, 8)),
    "random bytes of 4 GiB": ("random_get", (0, ALL)),
}
LEAVES = programs.calls(
    [("path_open", (3, 0, 200, 5, 1, 64, 0, 0, 8)), ("fd_write", (4, 300, 1, 8)), ("fd_close", (4,))],
    data='(data (i32.const 200) "b.txt") (data (i32.const 300) "\\c8\\00\\00\\00\\05\\00\\00\\00")',
)
# Writes 1 MiB sixty-four times to one file, then a byte more, and prints the errno of the last two writes.
DISK = (
    programs.calls(
        [("path_open", (3, 0, 200, 5, 1, 64, 0, 0, 8))],
        data='(data (i32.const 200) "b.txt") (data (i32.const 300) "\\00\\00\\01\\00\\00\\00\\10\\00")',
        then="""(drop (memory.grow (i32.const 17)))
      (loop $w (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (i32.store8 (i32.const 60000) (i32.add
          (call $fd_write (i32.const 4) (i32.const 300) (i32.const 1) (i32.const 8)) (i32.const 32)))
        (br_if $w (i32.lt_u (local.get $n) (i32.const 64))))
      (i32.store (i32.const 304) (i32.const 1))
      (i32.store8 (i32.const 60001) (i32.add (call $fd_write (i32.const 4) (i32.const 300) (i32.const 1) (i32.const 8))
        (i32.const 32)))""",
    )
    .replace('(func (export "_start")', '(func (export "_start") (local $n i32)')
    .replace("(i32.const 50004) (i32.const 1)", "(i32.const 50004) (i32.const 2)")
)
TEXTS = {
    "echo": programs.ECHO,
    "moody": programs.MOODY,
    "loop at start": programs.LOOP_AT_START,
    "big": programs.BIG,
    "tool": programs.tool("t"),
    "tool to outside": programs.tool("t", into=BEYOND - 3),
    "exit as a tool": programs.tool(".exit"),
    "component": programs.COMPONENT % "",
    "component that loops": programs.COMPONENT % "(loop $x (br $x))",
    "component that aborts": programs.COMPONENT % "unreachable",
    "component that calls at start": programs.COMPONENT_AT_START,
    "tail calls": '(module (func $t (return_call $t)) (func (export "_start") (call $t)))',
    "fills": programs.start("(loop $f (memory.fill (i32.const 0) (i32.const 7) (i32.const 65536)) (br $f))"),
    "disk": DISK,
    "imports twice": programs.ECHO.replace(
        "(memory", programs.imported("fd_write").replace("$fd_write", "$again") + "(memory", 1
    ),
    "component that gives 100 MiB": programs.COMPONENT
    % """(drop (memory.grow (i32.const 4000)))
      (i32.store (i32.const 20) (i32.const 104857600)) (return (i32.const 16))""",
    "component that asks with 100 MiB": programs.COMPONENT
    % """(drop (memory.grow (i32.const 4000)))
      (call $call (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 104857600) (i32.const 16))
      (return (i32.const 16))""",
    "hostile": programs.calls(list(HOSTILE.values()), data=PIECES),
    "too much": programs.calls(list(TOO_MUCH.values()), data=PIECES),
    "leaves a file": LEAVES,
}

Run = Callable[..., Exit]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of guests of our own."""
    folder: Path = tmp_path_factory.mktemp("guests")
    folder.chmod(0o700)
    return folder


@pytest.fixture(scope="module")
def digests(folder: Path) -> dict[str, str]:
    """The programs above, registered."""
    made = programs.assemble(TEXTS.values())
    return {name: register(folder, content).digest for name, content in zip(TEXTS, made, strict=True)}


async def tool(name: str, args: bytes) -> bytes:
    """The tools of these tests: `t` gives its arguments back."""
    if name != "t":
        raise CallRefused("no such tool")
    return b'{"given":' + args + b"}"


@pytest.fixture
def run(folder: Path, digests: dict[str, str]) -> Run:
    """Runs one program in a backend of its own."""

    def one(name: str, text: str = '""', **options: object) -> Exit:
        async def whole() -> Exit:
            backend = WasmModules(folder, workers=1)
            await backend.start()
            try:
                job = Job(module=digests[name], input=text.encode(), **options)  # type: ignore[arg-type]  # a mixed bag
                return await backend.run(job, tool)
            finally:
                await backend.close()

        return asyncio.run(asyncio.wait_for(whole(), PATIENCE))

    return one


def test_a_program_gets_its_input_and_gives_its_output(run: Run) -> None:
    """stdin is the job's input and stdout the output: one JSON value is the value, anything else is text."""
    done = run("echo", '{"a": [1, "ä"]}')
    assert (done.status, done.value, done.stdout) == ("ok", {"a": [1, "ä"]}, "")
    assert (done.backend, done.usage.memory_peak) == ("wasm", 65536)
    for text in ("hello", "1 2", '1,"result":2', "NaN", "9" * 30, ""):
        done = run("echo", text)
        assert (done.status, done.value, done.stdout) == ("ok", None, text)


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("u", "`unreachable` instruction executed"),
        ("d", "integer divide by zero"),
        ("o", "out of bounds memory access"),
    ],
)
def test_a_trap_is_an_error_that_says_which(run: Run, mood: str, said: str) -> None:
    """A program that traps ends as an error with one sentence."""
    done = run("moody", f'"{mood}"')
    assert done.status == "error"
    assert done.stderr.startswith("the program was stopped: ")
    assert said in done.stderr


def test_an_exit_code_is_an_error_with_stderr(run: Run) -> None:
    """What the program wrote to stderr is kept, and the code is named."""
    done = run("moody", '"x"')
    assert (done.status, done.stderr) == ("error", "refusedthe program ended with exit code 3\n")


def test_a_loop_is_stopped_wherever_it_is(run: Run) -> None:
    """A loop in the program, in its start section, of tail calls, or in a component ends as a timeout."""
    for name in ("moody", "loop at start", "tail calls", "fills", "component that loops"):
        assert run(name, '"l"', limits=Limits(wall=0.3)).status == "timeout"


def test_recursion_reaches_the_limit_of_the_stack(run: Run) -> None:
    """Endless recursion ends the job, not the worker."""
    done = run("moody", '"r"')
    assert (done.status, done.limit) == ("limit", "stack")


def test_memory_grows_to_its_limit_and_no_further(run: Run) -> None:
    """Growing is refused at the limit and the program goes on; one that needs more from the start does not begin."""
    done = run("moody", '"g"', limits=Limits(memory=32 * MIB))
    assert (done.status, done.stdout) == ("ok", "refused")
    assert done.usage.memory_peak is not None
    assert 31 * MIB < done.usage.memory_peak <= 32 * MIB
    done = run("big", limits=Limits(memory=32 * MIB))
    assert (done.status, done.limit) == ("limit", "memory")
    assert run("big", limits=Limits(memory=64 * MIB)).status == "ok"


def test_there_is_room_for_all_that_may_be_had(run: Run) -> None:
    """A program may have its 512 MiB, and 64 MiB of files but not a byte more, in a worker as confined as it is."""
    done = run("moody", '"g"', limits=Limits(memory=512 * MIB))
    assert (done.status, done.usage.memory_peak) == ("ok", 511 * MIB + 65536)
    done = run("disk", limits=Limits(disk=1024 * MIB))
    assert (done.status, programs.errnos(done.stdout)) == ("ok", [0, 51])
    done = run("disk", limits=Limits(disk=8 * MIB + 1))
    assert (done.status, programs.errnos(done.stdout)) == ("ok", [51, 0])


def test_a_flood_of_output_is_cut(run: Run) -> None:
    """Output past its limit ends the job; what came before is kept."""
    done = run("moody", '"f"', limits=Limits(output=100_000))
    assert (done.status, done.limit, done.truncated, len(done.stdout)) == ("limit", "output", True, 100_000)


def test_a_program_calls_a_tool(run: Run) -> None:
    """A granted tool's reply comes as JSON; a tool that was not granted is an error the program can read."""
    done = run("tool", tools=frozenset({"t"}))
    assert (done.status, done.value, done.usage.host_calls) == ("ok", {"value": {"given": {}}}, 1)
    done = run("tool")
    assert (done.status, done.value) == ("ok", {"error": "this tool may not be called from here"})
    done = run("tool", tools=frozenset({"t"}), limits=Limits(host_calls=0))
    assert (done.status, done.limit) == ("limit", "host_calls")


def test_the_name_that_ends_other_guests_is_no_tool_here(run: Run) -> None:
    """A program cannot give an answer past the count of its output."""
    assert run("exit as a tool").value == {"error": "this tool may not be called from here"}


def test_a_reply_is_not_copied_to_outside(run: Run) -> None:
    """A reply that does not fit into the program's memory ends the program."""
    done = run("tool to outside", tools=frozenset({"t"}))
    assert (done.status, done.stderr.count("outside its memory")) == ("error", 1)


def test_a_component_calls_a_tool(run: Run) -> None:
    """A component's `run` gets the input, calls through `host`, and gives one text; a trap is an error."""
    done = run("component", '{"q":7}', tools=frozenset({"t"}))
    assert (done.status, done.value) == ("ok", {"value": {"given": {"q": 7}}})
    done = run("component that aborts")
    assert (done.status, "unreachable" in done.stderr) == ("error", True)
    done = run("component", '"' + "x" * 1000 + '"', tools=frozenset({"t"}), limits=Limits(output=100))
    assert (done.status, done.limit, len(done.stdout)) == ("limit", "output", 100)


def test_a_component_cannot_give_more_than_may_go_out(run: Run) -> None:
    """A text of 100 MiB, given or sent to a tool, is cut or refused, and the worker lives."""
    done = run("component that gives 100 MiB", limits=Limits(memory=512 * MIB, output=1000))
    assert (done.status, done.limit, len(done.stdout)) == ("limit", "output", 1000)
    done = run("component that asks with 100 MiB", limits=Limits(memory=512 * MIB), tools=frozenset({"t"}))
    assert (done.status, done.value) == ("ok", {"error": "the arguments are over 262144 characters"})


def test_a_name_may_be_imported_twice(run: Run) -> None:
    """The same function under the same name, imported again, is the same function."""
    assert run("imports twice", "[1]").value == [1]


def test_no_pointer_reaches_out_of_the_memory(run: Run) -> None:
    """Pointers and lengths beyond the memory, up to 4 GiB, give the errno `fault` from every function."""
    found = dict(zip(HOSTILE, programs.errnos(run("hostile", files={"a": b""}).stdout), strict=True))
    assert found == dict.fromkeys(HOSTILE, 21)


def test_no_count_makes_a_call_long(run: Run) -> None:
    """Counts that would take seconds of work are refused."""
    found = dict(zip(TOO_MUCH, programs.errnos(run("too much").stdout), strict=True))
    assert found == dict.fromkeys(TOO_MUCH, 28)


def test_what_a_program_leaves_comes_back(run: Run) -> None:
    """A new file is given back up to the limit, over it the job ends, and without a limit nothing comes back."""
    done = run("leaves a file", limits=Limits(files_out=5))
    assert (done.status, done.files) == ("ok", {"b.txt": b"b.txt"})
    done = run("leaves a file", limits=Limits(files_out=4))
    assert (done.status, done.limit, done.files) == ("limit", "files_out", {})
    assert run("leaves a file").files == {}


def test_a_call_before_the_beginning_ends_its_own_job(folder: Path, digests: dict[str, str]) -> None:
    """A component may call a tool while it starts; what ends that call does not end the next job of the worker."""

    async def whole() -> list[Exit]:
        backend = WasmModules(folder, workers=1)
        await backend.start()
        try:
            job = Job(module=digests["component that calls at start"], input=b"1", tools=frozenset({"t"}))
            few = replace(job, limits=Limits(host_calls=0))
            return [await backend.run(each, tool) for each in (few, few, job)]
        finally:
            await backend.close()

    done = asyncio.run(asyncio.wait_for(whole(), PATIENCE))
    assert [(each.status, each.limit) for each in done] == [("limit", "host_calls")] * 2 + [("ok", None)]
    assert (done[2].usage.host_calls, done[2].value) == (2, {"value": {"given": 1}})


def test_every_run_is_the_first(folder: Path, digests: dict[str, str]) -> None:
    """Nothing of a run is left for the next one in the same worker, however it ended."""

    async def whole() -> list[Exit]:
        backend = WasmModules(folder, workers=1)
        await backend.start()
        try:
            texts = ["secret" * 100, "u", "", "ok"]
            return [await backend.run(Job(module=digests["echo"], input=text.encode())) for text in texts]
        finally:
            await backend.close()

    done = asyncio.run(asyncio.wait_for(whole(), PATIENCE))
    assert [each.stdout for each in done] == ["secret" * 100, "u", "", "ok"]
    assert len({each.sandbox_id.partition("-")[0] for each in done}) == 1
