"""The runner of tools that are code: the only importer of `sandboxes`. It never runs code in this process.

A snippet from an argument sees the tool's `args` argument as `args`; code that stands in the spec sees all arguments.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from gateway import strictjson
from gateway.model import Arguments, Problem, RawOutput
from gateway.problems import problem, refuse
from gateway.specs.fetch import FETCH
from gateway.tool import Json, Labels, SandboxBackend
from gateway.work import Calls, NestedRefusal, Work
from sandboxes.model import MIB, Backend, CallRefused, Exit, Job, Limits, OnCall, SandboxUnavailable

_RETRY_MS = 1000
_MEMORY, _OUTPUT = 256 * MIB, MIB // 4
_MOST_WALL = 300.0  # seconds
_NO_LABELS: Labels = frozenset()


class SandboxRunner:
    """Runs each call in a sandbox of its own, of the backend that its tool's spec names."""

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = backends

    async def run(self, work: Work) -> RawOutput:
        """What the code printed, left behind and was told by what it called.

        Raises:
            Refusal: `sandbox_unavailable` when nothing ran, or a guarantee asked for cannot be given.
        """
        spec = work.tool.backend
        if not isinstance(spec, SandboxBackend):
            raise TypeError("not a sandbox tool")
        backend = self._backends.get(spec.backend)
        if backend is None:
            raise refuse("sandbox_unavailable", f"The sandbox {spec.backend} is not up.", retry_after_ms=_RETRY_MS)
        if spec.backend == "docker" and not spec.image:
            raise refuse("sandbox_unavailable", "The image that this tool runs in is not there: its operator makes it.")
        # A backend that could not look at its host yet promises nothing; it judges the sandbox it makes then.
        missing = (spec.require | work.require) - backend.guarantees if backend.guarantees else None
        if missing:
            raise refuse("sandbox_unavailable", f"The sandbox cannot guarantee {', '.join(sorted(missing))}.")
        job = _job(work, spec)
        try:
            done = await (backend.run(job) if work.calls is None else backend.run(job, _on_call(work.calls)))
        except SandboxUnavailable as error:
            raise refuse("sandbox_unavailable", str(error), retry_after_ms=_RETRY_MS) from None
        return _output(done, spec, work.calls.labels if work.calls else _NO_LABELS)


def _on_call(calls: Calls) -> OnCall:
    """The way from the code to the gateway: what the gateway says no to is an exception in the code."""

    async def on_call(name: str, arguments: bytes) -> bytes:
        try:
            return await calls.call(name, arguments)
        except NestedRefusal as refusal:
            raise CallRefused(str(refusal)) from None

    return on_call


def _job(work: Work, spec: SandboxBackend) -> Job:
    arguments = work.arguments
    if spec.code_argument is not None:
        program, given = str(arguments[spec.code_argument]), arguments.get("args") or {}
    else:
        program, given = spec.code or "", arguments
    return Job(
        program=program,
        input=_encoded(given),
        tools=spec.tools | {FETCH} if spec.network else spec.tools,
        seed=work.seed,
        now=work.now,
        limits=limits_of(spec, work.tool.timeout),
        call_id=work.call_id,
        deadline=work.deadline,
        tenant=work.tenant,
        module=spec.module,
        image=spec.image,
        command=spec.command,
        files=work.files,
        require=spec.require | work.require if work.require else spec.require,
        depth=work.depth,
    )


def limits_of(spec: SandboxBackend, timeout: float) -> Limits:
    """The ceilings of the spec, and those of every sandbox where it is silent."""
    given = spec.limits
    others = {key: given[key] for key in ("cpu", "pids", "disk", "host_calls", "files_out") if key in given}
    return Limits(
        wall=float(given.get("wall", min(timeout, _MOST_WALL))),
        memory=int(given.get("memory", _MEMORY)),
        output=int(given.get("output", _OUTPUT)),
        **others,  # type: ignore[arg-type]  # whole numbers where the spec language takes whole numbers only
    )


def _encoded(given: Json | Arguments) -> bytes:
    try:
        return orjson.dumps(given)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits, which Python code can well use
        return strictjson.canonical(given)


def _output(done: Exit, spec: SandboxBackend, labels: Labels) -> RawOutput:
    if done.status == "unavailable" and "guarantee" in done.stderr:
        raise refuse("sandbox_unavailable", f"The sandbox cannot run this call: {done.stderr.strip()}.")
    if done.status == "unavailable":
        raise refuse("sandbox_unavailable", "No sandbox could run this call now.", retry_after_ms=_RETRY_MS)
    wrong = _problem(done)
    text, structured = _shape(done, spec, failed=wrong is not None)
    return RawOutput(
        text=text,
        structured=structured,
        problem=wrong,
        truncated=done.truncated,
        sandbox_ms=round(done.usage.sandbox_ms, 3),
        origin=done.backend,
        guarantees=done.guarantees,
        files=done.files,
        labels=labels,
        sandbox={"backend": done.backend, "image_digest": done.image, "engine": done.engine},
    )


def _shape(done: Exit, spec: SandboxBackend, *, failed: bool) -> tuple[str, Json]:
    """A snippet gives its stdout and `{result, stdout, stderr}`; a tool written in its spec gives its result itself.

    stdout stands in both, because some clients show a model nothing but the structured part.
    """
    if failed:
        said = "\n".join(part.rstrip("\n") for part in (done.stdout, done.stderr) if part)
        return said, None
    if spec.code_argument is not None:
        return done.stdout or _text(done.value), {"result": done.value, "stdout": done.stdout, "stderr": done.stderr}
    structured = done.value if isinstance(done.value, dict) else {"result": done.value}
    return done.stdout or _text(done.value), structured


def _text(value: Json) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _problem(done: Exit) -> Problem | None:
    if done.status == "ok":
        return None
    if done.status == "error":
        return problem("tool_error", "The code raised an error; its text is in the result.")
    if done.status == "timeout":
        return problem("timeout", "The code did not finish in the time it has.")
    if done.status == "limit":
        return problem("sandbox_limit", f"The code reached the sandbox's limit of {done.limit}.")
    if done.status == "crashed":  # which code can bring about itself, so the time that it took is not given back
        return problem("upstream_error", "The sandbox broke down under its code.")
    return problem("cancelled", "The call was cancelled.")
