"""The program inside a runner image, run here without a container: its language, its limits, what it gives back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxes.answers import Answer
from sandboxes.frames import unpack_object
from sandboxes.images import inside
from sandboxes.images.inside import work
from sandboxes.model import MAX_FILE_NAME, MAX_FILES, CallRefused, Job, Limits, OnCall, is_file_name
from sandboxes.talk import Channel, Gone, Talk

RUNNER = Path(inside.__file__).parent / "runner.py"
TOOLGATE_CALL = RUNNER.parent.parent / "shell" / "toolgate-call"
# Bounds a hang; no test measures time.
PATIENCE = 60

Ask = Callable[..., Answer]


async def echo(name: str, args: bytes) -> bytes:
    """A gateway whose tools answer with what they were asked, but for one that refuses."""
    if name == "no":
        raise CallRefused("refused: not today")
    if name == "net.fetch":
        return json.dumps({"status": 200, "headers": {"K": "v"}, "body": args.decode()}).encode()
    return json.dumps([name, json.loads(args)]).encode()


class Started:
    """A runner that has said `ready`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def __aenter__(self) -> Started:
        arrived: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

        def accept() -> Channel:
            arrived.set_result(Channel())
            return arrived.result()

        gate = self._folder / "gate"
        self._server = await asyncio.get_running_loop().create_unix_server(accept, gate)
        command = [sys.executable, "-I", "-S", "-u", str(RUNNER), str(gate), str(self._folder / "work")]
        self.process = await asyncio.create_subprocess_exec(*command)
        self.channel = await arrived
        self.ready = unpack_object(await self.channel.frame())
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.channel.close()
        self._server.close()
        self.code = await self.process.wait()


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Has a fresh runner do a job; its answer."""

    async def whole(job: Job, on_call: OnCall) -> Answer:
        async with Started(tmp_path) as runner:
            answer, _ms = await Talk(job, on_call).run(runner.channel, job.limits.wall)
        assert runner.code == 0
        return answer

    def run(program: str, on_call: OnCall = echo, **fields: object) -> Answer:
        job = Job(program, **fields)  # type: ignore[arg-type]  # a mixed bag
        return asyncio.run(asyncio.wait_for(whole(job, on_call), PATIENCE))

    return run


TOOLS = frozenset({"x", "no", "net.fetch"})


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("result = args['n'] + 1", 8),
        ("result = call('x', a=1)", ["x", {"a": 1}]),
        ("result = tools.x(a=[None, 'é'])", ["x", {"a": [None, "é"]}]),
        (
            "r = fetch('https://a.example/', 'post', {'K': 'v'}, b'{}'); result = [r.status, r.headers, r.json()]",
            [200, {"k": "v"}, {"method": "POST", "url": "https://a.example/", "headers": {"K": "v"}, "body": "{}"}],
        ),
        ("result = [dir(tools), repr(tools)]", [["no", "x"], "<tools: no, x>"]),
        ("try: call('no')\nexcept ToolError as error: result = str(error)", "refused: not today"),
        (
            "try: call('y')\nexcept ToolError as error: result = str(error)",
            "'y' may not be called from here; allowed: net.fetch, no, x",
        ),
        (
            "try: call('x', a='a' * 300_000)\nexcept ToolError as error: result = str(error)[:22]",
            "the arguments are over",
        ),
        ("result = [hasattr(tools, 'y'), hasattr(tools, 'net.fetch')]", [False, False]),
        ("import os; result = [os.listdir('.'), sorted(os.environ)]", [[], ["HOME", "LANG", "PATH", "TOOLGATE_CALLS"]]),
        ("import os; result = sorted(map(int, os.listdir('/proc/self/fd')))[:4]", [0, 1, 2, 3]),
        ("import sys; result = sys.stdin.read()", ""),
        ("import sys; sys.exit()", None),
        ("import pickle\nclass A: pass\nresult = type(pickle.loads(pickle.dumps(A()))) is A", True),
        (
            "from concurrent.futures import ThreadPoolExecutor as P\n"
            "result = [r[1]['i'] for r in P(8).map(lambda i: call('x', i=i), range(40))]",
            list(range(40)),
        ),
    ],
)
def test_a_snippet_has_its_arguments_its_tools_and_nothing_else(ask: Ask, program: str, value: object) -> None:
    """`args`, `result`, `call`, `tools`, `fetch` and `ToolError` mean what they mean in the other guests."""
    answer = ask(program, input=b'{"n": 7}', tools=TOOLS)
    assert (answer.status, answer.value, answer.stderr) == ("ok", value, "")


@pytest.mark.parametrize(
    ("program", "status", "limit", "said"),
    [
        ("1 / 0", "error", None, 'File "<tool>", line 1, in <module>\n    1 / 0\n'),
        ("x = (", "error", None, "SyntaxError"),
        ("import sys; sys.exit('bye')", "error", None, "bye\n"),
        ("import os; os._exit(3)", "error", None, "exit status 3\n"),
        ("import os; os.kill(os.getpid(), 11)", "error", None, "killed by signal 11\n"),
        (
            "class E:\n  def __repr__(self): return 1\nraise SystemExit(E())",
            "error",
            None,
            "could not be shown: TypeError",
        ),
        ("bytearray(10**15)", "limit", "memory", "MemoryError"),
        ("def f(): f()\nf()", "error", None, "RecursionError"),
        ("result = {1, 2}", "error", None, "result is not JSON"),
        ("result = float('nan')", "error", None, "result is not JSON"),
        ("result = 2 ** 70", "error", None, "beyond 64 bits"),
        ("class E(Exception):\n  def __str__(self): raise self\nraise E", "error", None, "E"),
        ("import os; os.write(3, b'\\xff' * 8)", "error", None, "not its language"),
        ("import os; os.write(3, b'\\0\\0\\0\\2[]')", "error", None, "not its language"),
        ("import os; os.write(3, b'\\0\\0\\0\\2{}')", "error", None, "not its language"),
        ("for i in range(9): call('x')", "limit", "host_calls", "too many calls"),
        ("while True: pass", "timeout", None, ""),
        (
            "import signal, time\nfor n in range(1, 32):\n  if n not in (9, 19): signal.signal(n, 1)\ntime.sleep(99)",
            "timeout",
            None,
            "",
        ),
    ],
)
def test_a_snippet_that_goes_wrong_says_how(ask: Ask, program: str, status: str, limit: str | None, said: str) -> None:
    """Every end has its status, the limit that was met, and a text that helps."""
    limits = Limits(wall=1.0 if status == "timeout" else 30, host_calls=5)
    answer = ask(program, tools=frozenset({"x"}), limits=limits)
    assert (answer.status, answer.limit) == (status, limit)
    assert said in answer.stderr
    assert str(RUNNER.parent) not in answer.stderr


FLOODS = {
    "print": "while True: print('y' * 100)",
    "descriptor": "import os\nwhile True: os.write(2, b'y' * 100)",
    "grandchild": "import subprocess\nsubprocess.run(['yes'])",
    "both": "import os\nwhile True: os.write(1, b'y'); os.write(2, b'n')",
    "threads": (
        "import os, threading as t\ndef f():\n  while True: os.write(1, b'y' * 999)\n"
        "for i in 1, 2: t.Thread(target=f).start()"
    ),
}


@pytest.mark.parametrize("program", FLOODS.values(), ids=FLOODS)
def test_a_flood_ends_at_the_output_limit(ask: Ask, program: str) -> None:
    """What came before is kept, to the byte; what floods is killed."""
    answer = ask(program, limits=Limits(output=5000, wall=60))
    assert (answer.status, answer.limit, answer.truncated) == ("limit", "output", True)
    assert len(answer.stdout) + len(answer.stderr) == 5000


def test_a_result_counts_as_output(ask: Ask) -> None:
    """A result that no longer fits beside what was printed is the output limit."""
    assert ask("print('y' * 50); result = 'x' * 48", limits=Limits(output=101)).status == "ok"
    answer = ask("print('y' * 50); result = 'x' * 49", limits=Limits(output=101))
    assert (answer.status, answer.limit, answer.stdout) == ("limit", "output", "y" * 50 + "\n")


@pytest.mark.parametrize(
    ("program", "command", "stdout", "stderr"),
    [
        ("cat; echo; cat ARGS; echo; cat given; echo no >&2", ("bash",), '{"n": 7}\n{"n": 7}\nfile', "no\n"),
        ("", ("echo", "a b"), "a b\n", ""),
        ("for i in 1 2 3; do (sleep 0; echo $i); done | sort -r | head -n 1", ("sh",), "3\n", ""),
        (f"{TOOLGATE_CALL} x '{{\"a\": 1}}'", ("sh",), '["x", {"a": 1}]\n', ""),
        (f"for i in 1 2 3 4; do {TOOLGATE_CALL} x & done; wait", ("sh",), '["x", {}]\n' * 4, ""),
        (f"{TOOLGATE_CALL} no || echo $?", ("sh",), "1\n", "refused: not today\n"),
        (f"{TOOLGATE_CALL} x '[]' || echo $?", ("sh",), "2\n", "toolgate-call: the arguments are not a JSON object\n"),
    ],
)
def test_a_command_gets_its_program_as_a_file(
    ask: Ask, program: str, command: tuple[str, ...], stdout: str, stderr: str
) -> None:
    """The arguments come as JSON on stdin and as the file ARGS, the program as the last word, tools by a command."""
    answer = ask(program, command=command, input=b'{"n": 7}', tools=TOOLS, files={"given": b"file"})
    assert (answer.status, answer.stdout, answer.stderr) == ("ok", stdout, stderr)


@pytest.mark.parametrize(
    ("program", "command", "said"),
    [
        ("exit 3", ("sh",), "exit status 3\n"),
        ("kill -TERM $$", ("sh",), "killed by signal 15\n"),
        ("", ("no-such-program",), "no-such-program: No such file or directory\nexit status 127\n"),
    ],
)
def test_a_command_that_fails_says_so(ask: Ask, program: str, command: tuple[str, ...], said: str) -> None:
    """An exit status other than 0 is an error, and stands on stderr."""
    answer = ask(program, command=command)
    assert (answer.status, answer.stderr) == ("error", said)


def test_files_come_back_when_new_or_changed(ask: Ask) -> None:
    """What the job was given and left alone stays there; the rest comes back, hidden names and folders never."""
    program = """
import os
open('made.bin', 'wb').write(bytes(range(256)))
open('changed', 'a').write('!')
os.rename('moved', 'moved.txt')
open('.hidden', 'w').write('x'); open('odd name', 'w').write('x')
os.mkdir('folder'); open('folder/in', 'w').write('x')
os.symlink('/etc/passwd', 'link'); os.mkfifo('fifo')
"""
    files = {"same": b"same", "changed": b"it", "moved": b"moved"}
    answer = ask(program, files=files, limits=Limits(files_out=4096))
    assert answer.files == {"made.bin": bytes(range(256)), "changed": b"it!", "moved.txt": b"moved"}
    assert answer.status == "ok"


@pytest.mark.parametrize(
    ("program", "cap", "back"),
    [
        ("open('a', 'wb').write(b'x' * 100)", 100, {"a": b"x" * 100}),
        ("open('a', 'wb').write(b'x' * 101)", 100, None),
        ("f = open('a', 'w'); f.write('x')", 100, {"a": b"x"}),
        ("open('a', 'wb').truncate(1 << 40)", 100, None),
        ("for i in range(33): open(f'f{i}', 'w')", 100, None),
        ("for i in range(32): open(f'f{i}', 'w')", 100, {f"f{i}": b"" for i in range(32)}),
        ("open('a', 'wb').write(b'x' * 100)", 0, {}),
        ("open('a', 'wb').write(b'x' * 100); import os; os._exit(1)", 100, {"a": b"x" * 100}),
        ("import os; os.unlink('given'); os.symlink('/dev/zero', 'given')", 100, {}),
    ],
)
def test_files_are_counted_as_they_are_read(ask: Ask, program: str, cap: int, back: dict[str, bytes] | None) -> None:
    """Bytes read count, not the size a file claims; one byte or one file over is the limit `files_out`."""
    answer = ask(program, files={"given": b""}, limits=Limits(files_out=cap))
    if back is None:
        assert (answer.status, answer.limit, answer.files) == ("limit", "files_out", {})
    else:
        assert (answer.limit, answer.files) == (None, back)


def test_offspring_ends_with_the_job(ask: Ask) -> None:
    """A process that left its session and its parent is killed before the answer is given."""
    program = """
import os, time
for generation in range(3):
    if os.fork():
        time.sleep(0 if generation else 0.2)
        break
    os.setsid()
else:
    print(os.getpid(), flush=True)
    time.sleep(600)
"""
    answer = ask(program)
    pid = int(answer.stdout)
    assert answer.status == "ok"
    assert not Path(f"/proc/{pid}").exists()


def test_only_the_job_itself_reports(ask: Ask) -> None:
    """A fork that runs to the end of the snippet says nothing about it: the result is that of the first process."""
    program = """
import os, time
forked = os.fork() == 0
if not forked: time.sleep(0.2)
result = "forked" if forked else "first"
"""
    answer = ask(program)
    assert (answer.status, answer.value) == ("ok", "first")


def test_the_dead_are_buried_while_the_job_runs(ask: Ask) -> None:
    """A process that lost its parent and ended is no more: only the living count against the limit of processes."""
    program = """
import os, time
if os.fork() == 0:
    orphan = os.fork()
    if orphan: print(orphan, file=open("orphan", "w"), flush=True)
    os._exit(0)
os.wait()
orphan = int(open("orphan").read())
while os.path.exists(f"/proc/{orphan}"): time.sleep(0.01)
"""
    answer = ask(program)
    assert (answer.status, answer.stderr) == ("ok", "")


def test_a_runner_ends_with_its_gate(tmp_path: Path) -> None:
    """When the gateway is gone, the job is killed and the runner ends: nobody waits for either."""

    async def whole() -> int:
        pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def note(_name: str, args: bytes) -> bytes:
            pid.set_result(json.loads(args)["pid"])
            return b"null"

        program = "import os, time; call('x', pid=os.getpid()); time.sleep(600)"
        async with Started(tmp_path) as runner:
            job = Job(program, tools=frozenset({"x"}), limits=Limits(wall=300))
            talk = asyncio.ensure_future(Talk(job, note).run(runner.channel, 300))
            child = await pid
            runner.channel.close()
            with contextlib.suppress(Gone):
                await talk
        return child

    child = asyncio.run(asyncio.wait_for(whole(), PATIENCE))
    assert not Path(f"/proc/{child}").exists()


def test_the_runner_says_what_it_was_given(tmp_path: Path) -> None:
    """Its first frame holds the container's facts, as the kernel tells them."""

    async def whole() -> dict[str, object]:
        async with Started(tmp_path) as runner:
            return runner.ready

    ready = asyncio.run(asyncio.wait_for(whole(), PATIENCE))
    facts = ready["facts"]
    assert ready["kind"] == "ready"
    assert isinstance(facts, dict)
    assert (facts["uid"], facts["gid"]) == (os.getuid(), os.getgid())
    assert "lo" in facts["interfaces"]


def test_the_inside_keeps_the_rules_of_the_outside() -> None:
    """The inside's own copies say what the package says."""
    assert (work.MAX_FILES, work.MAX_NAME) == (MAX_FILES, MAX_FILE_NAME)
    for name in ("a", "A.b-c_9", "", ".a", "-a", "a/b", "a b", "é", "a" * 100, "a" * 101, "..", "a\n"):
        assert work.is_name(name) == is_file_name(name), name
