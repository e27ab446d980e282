"""The runner of tools that are code: the only importer of `sandboxes`. It never runs code in this process.

A snippet from an argument sees the tool's `args` argument as `args`; code that stands in the spec sees all arguments.
"""

from __future__ import annotations

import orjson

from gateway import strictjson
from gateway.model import Arguments, Problem, RawOutput
from gateway.problems import problem, refuse
from gateway.tool import Json, SandboxBackend
from gateway.work import Work
from sandboxes.model import Exit, Job, Limits, SandboxUnavailable
from sandboxes.pool import WasmPython

_RETRY_MS = 1000


class SandboxRunner:
    """Runs each call in a fresh VM of the pool that was handed in."""

    def __init__(self, pool: WasmPython) -> None:
        self._pool = pool

    async def run(self, work: Work) -> RawOutput:
        """What the code printed and left behind.

        Raises:
            Refusal: `sandbox_unavailable` when nothing ran, or the guarantee asked for cannot be given.
        """
        backend = work.tool.backend
        if not isinstance(backend, SandboxBackend):
            raise TypeError("not a sandbox tool")
        missing = (backend.require | work.require) - self._pool.guarantees
        if missing:
            raise refuse("sandbox_unavailable", f"The sandbox cannot guarantee {', '.join(sorted(missing))}.")
        try:
            done = await self._pool.run(_job(work, backend))
        except SandboxUnavailable as error:
            raise refuse("sandbox_unavailable", str(error), retry_after_ms=_RETRY_MS) from None
        return _output(done, backend)


def _job(work: Work, backend: SandboxBackend) -> Job:
    arguments = work.arguments
    if backend.code_argument is not None:
        program, given = str(arguments[backend.code_argument]), arguments.get("args") or {}
    else:
        program, given = backend.code or "", arguments
    limits = backend.limits
    return Job(
        program=program,
        input=_encoded(given),
        seed=work.seed,
        now=work.now,
        limits=Limits(
            wall=float(limits.get("wall", work.tool.timeout)),
            memory=int(limits.get("memory", 256 << 20)),
            output=int(limits.get("output", 256 << 10)),
        ),
        call_id=work.call_id,
        deadline=work.deadline,
        tenant=work.tenant,
    )


def _encoded(given: Json | Arguments) -> bytes:
    try:
        return orjson.dumps(given)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits, which Python code can well use
        return strictjson.canonical(given)


def _output(done: Exit, backend: SandboxBackend) -> RawOutput:
    if done.status in ("unavailable", "crashed"):
        raise refuse("sandbox_unavailable", "No sandbox could run this call now.", retry_after_ms=_RETRY_MS)
    wrong = _problem(done)
    text, structured = _shape(done, backend, failed=wrong is not None)
    return RawOutput(
        text=text,
        structured=structured,
        problem=wrong,
        truncated=done.truncated,
        sandbox_ms=round(done.usage.sandbox_ms, 3),
        origin=done.backend,
        guarantees=done.guarantees,
    )


def _shape(done: Exit, backend: SandboxBackend, *, failed: bool) -> tuple[str, Json]:
    """A snippet gives its stdout and `{result, stdout, stderr}`; a tool written in its spec gives its result itself.

    stdout stands in both, because some clients show a model nothing but the structured part.
    """
    if failed:
        said = "\n".join(part.rstrip("\n") for part in (done.stdout, done.stderr) if part)
        return said, None
    if backend.code_argument is not None:
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
    return problem("cancelled", "The call was cancelled.")
