"""The sandbox runner over backends that end in every way: what a job is given, and what each end means."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gateway.backends import open_backends
from gateway.model import Arguments, RawOutput, Refusal
from gateway.runners.sandboxed import SandboxRunner, limits_of
from gateway.settings import Sandboxes
from gateway.tool import SandboxBackend, Tool
from gateway.work import NestedRefusal, Work
from sandboxes.model import MIB, CallRefused, Exit, Job, Limits, OnCall, SandboxUnavailable, Usage
from tests.gateway.runners.servers import Anything


@dataclass
class Ending:
    """A backend whose jobs all end the same way."""

    end: Exit | Exception
    name: str = "made-up"
    guarantees: frozenset[str] = frozenset({"no-network"})
    calls: tuple[tuple[str, bytes], ...] = ()
    jobs: list[Job] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to close."""

    async def run(self, job: Job, on_call: OnCall | None = None) -> Exit:
        self.jobs.append(job)
        for name, arguments in self.calls:
            assert on_call is not None
            try:
                self.said.append((await on_call(name, arguments)).decode())
            except CallRefused as refusal:
                self.said.append(f"refused: {refusal}")
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


class Answers:
    """Nested calls, of which one is refused."""

    labels = frozenset({"pii"})

    async def call(self, name: str, arguments: bytes) -> bytes:
        if name == "no":
            raise NestedRefusal("because")
        return arguments


OK = Exit("ok", stdout="said", value={"a": 1}, backend="made-up", guarantees=frozenset({"no-network"}))
CODER = SandboxBackend("made-up", "code", None)


def work(backend: SandboxBackend = CODER, **more: object) -> Work:
    """One call of a sandboxed tool."""
    tool = Tool("coder", "1", "sha256:0", "Runs code.", {}, backend, Anything(), timeout=400.0)
    given = Work("c_1", tool, Arguments({"code": "x"}), "default", 1e12, 1.0, 7)
    return replace(given, **more)  # type: ignore[arg-type]  # a mixed bag


def run(backend: Ending, what: Work) -> RawOutput:
    """The output of one job."""
    return asyncio.run(SandboxRunner({backend.name: backend}).run(what))


def refused(backend: Ending, what: Work) -> tuple[str, str, bool]:
    """Code, detail, and whether it says when to come again."""
    with pytest.raises(Refusal) as caught:
        run(backend, what)
    problem = caught.value.problem
    return problem.code, problem.detail, problem.retry_after_ms is not None


def test_the_job_is_what_spec_policy_and_call_say() -> None:
    """Grants, program, files, limits and guarantees, those of the policy among them."""
    spec = SandboxBackend(
        *("made-up", None, "y = 1"),
        limits={"wall": 2.0, "memory": 64 * MIB, "cpu": 0.5, "pids": 5, "files_out": 10},
        require=frozenset({"no-network"}),
        image="sha256:1",
        command=("sh",),
        tools=frozenset({"look"}),
        network=("GET https://a.test/**",),
    )
    backend = Ending(OK, guarantees=frozenset({"no-network", "cpu-cap"}))
    run(backend, work(spec, files={"a.txt": b"1"}, require=frozenset({"cpu-cap"}), depth=2))
    (job,) = backend.jobs
    assert (job.program, job.input, job.image, job.command) == ("y = 1", b'{"code":"x"}', "sha256:1", ("sh",))
    assert job.tools == {"look", "net.fetch"}
    assert job.files == {"a.txt": b"1"}
    assert job.require == {"no-network", "cpu-cap"}
    assert (job.seed, job.now, job.depth, job.tenant, job.deadline) == (7, 1.0, 2, "default", 1e12)
    assert job.limits == Limits(2.0, 64 * MIB, 256 * 1024, cpu=0.5, pids=5, files_out=10)


def test_limits_that_a_spec_leaves_out_are_those_of_every_sandbox() -> None:
    """The tool's time, at most what any sandbox gives; 64 calls of tools; no files."""
    assert limits_of(CODER, 400.0) == Limits(300.0, 256 * MIB, 256 * 1024)
    assert limits_of(CODER, 5.0).host_calls == 64


def test_a_backend_that_is_not_there_is_no_sandbox() -> None:
    """No other backend takes its place."""
    backend = Ending(OK)
    what = work(replace(CODER, backend="docker"))
    assert refused(backend, what) == ("sandbox_unavailable", "The sandbox docker is not up.", True)
    assert backend.jobs == []


@pytest.mark.parametrize(
    ("what", "missing"),
    [
        (work(replace(CODER, require=frozenset({"cpu-cap"}))), "cpu-cap"),
        (work(require=frozenset({"no-shared-kernel"})), "no-shared-kernel"),
    ],
    ids=["spec", "policy"],
)
def test_a_guarantee_that_is_not_kept_is_refused_by_name(what: Work, missing: str) -> None:
    """Whoever asks for it; nothing runs, and coming again does not help."""
    backend = Ending(OK)
    assert refused(backend, what) == ("sandbox_unavailable", f"The sandbox cannot guarantee {missing}.", False)
    assert backend.jobs == []


def test_a_backend_that_nothing_is_known_of_yet_is_asked() -> None:
    """An engine that was away since the start has shown nothing: the call hears that, and when to come again."""
    backend = Ending(Exit("unavailable", stderr="no engine answers\n"), guarantees=frozenset())
    what = work(replace(CODER, require=frozenset({"no-network"})), require=frozenset({"memory-cap"}))
    assert refused(backend, what) == ("sandbox_unavailable", "No sandbox could run this call now.", True)
    (job,) = backend.jobs
    assert job.require == {"no-network", "memory-cap"}


def test_an_image_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Coming again does not help: somebody has to make it. At the start the operator is told for which tools."""
    backend = Ending(OK, name="docker")
    what = work(replace(CODER, backend="docker"))
    detail = "The image that this tool runs in is not there: its operator makes it."
    assert refused(backend, what) == ("sandbox_unavailable", detail, False)
    assert backend.jobs == []
    said: list[str] = []

    async def start() -> None:
        async with AsyncExitStack() as stack:
            await open_backends(Sandboxes(guests=tmp_path), [what.tool], stack, said.append)

    asyncio.run(start())
    assert said == ["toolgate: calls of coder are refused until `make runners` has made what they run in"]


def test_a_sandbox_that_keeps_less_than_its_kind_says_so() -> None:
    """A guarantee that the very sandbox lacks is named, too."""
    end = Exit("unavailable", stderr="made-up does not guarantee memory-cap\n")
    code, detail, again = refused(Ending(end), work())
    assert (code, again) == ("sandbox_unavailable", False)
    assert "made-up does not guarantee memory-cap" in detail


@pytest.mark.parametrize("end", [Exit("unavailable", stderr="full\n"), SandboxUnavailable("it is closed")])
def test_where_nothing_ran_the_call_may_come_again(end: Exit | Exception) -> None:
    """A full pool, a backend that is closed: refused, with the time to wait."""
    code, _, again = refused(Ending(end), work())
    assert (code, again) == ("sandbox_unavailable", True)


@pytest.mark.parametrize("calls", [0, 1])
def test_a_sandbox_that_broke_under_its_code_is_a_failure(calls: int) -> None:
    """The code ran, and may have broken it: it must not be taken for a call that never ran, and the time counts."""
    output = run(Ending(Exit("crashed", usage=Usage(sandbox_ms=900.0, host_calls=calls))), work(calls=Answers()))
    assert output.problem is not None
    assert (output.problem.code, output.sandbox_ms) == ("upstream_error", 900.0)
    assert output.labels == {"pii"}


def test_a_limit_is_named_and_what_came_before_is_kept() -> None:
    """Both streams are the text of the failure, and files come along."""
    end = Exit("limit", "memory", stdout="first\n", stderr="oh\n", truncated=True, files={"a": b"1"})
    output = run(Ending(end), work())
    assert output.problem is not None
    assert (output.problem.code, output.text, output.truncated) == ("sandbox_limit", "first\noh", True)
    assert "memory" in output.problem.detail
    assert output.files == {"a": b"1"}


def test_what_the_code_calls_comes_back_as_answer_or_exception() -> None:
    """Bytes go through as they are; a refusal becomes the sandbox's own."""
    backend = Ending(OK, calls=(("yes", b'{"a":1}'), ("no", b"{}")))
    output = run(backend, work(replace(CODER, tools=frozenset({"yes", "no"})), calls=Answers()))
    assert backend.said == ['{"a":1}', "refused: because"]
    assert output.labels == {"pii"}
    assert output.structured == {"result": {"a": 1}, "stdout": "said", "stderr": ""}
