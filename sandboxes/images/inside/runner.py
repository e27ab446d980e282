"""The program of every runner image: says what it was given, waits for one job, runs it, answers, ends.

`runner.py [SOCKET [FOLDER]]`. It is started long before its job comes, so it is small; it serves one job and is then
destroyed with its container. What it says is the sandbox's own claim, and the host checks it again.
"""

import sys

sys.path.insert(0, __file__.removesuffix("/sandboxes/images/inside/runner.py"))

import gc
import json
import os
import signal
import time
from _socket import AF_UNIX, SOCK_STREAM, socket

from sandboxes.images.inside import probe, wire, work
from sandboxes.images.inside.child import PR_SET_DUMPABLE, prctl
from sandboxes.images.inside.run import EXTRA_CHARS, HostGone, Job, Run

SOCKET, FOLDER = "/run/toolgate/gate.sock", "/tmp/work"
PR_SET_CHILD_SUBREAPER = 36
BROKEN = "what was said on the line of tool calls is not its language\n"
# A file grew past what a file may have; the second is how a shell tells it of its own child.
TOO_LARGE = (-signal.SIGXFSZ, 128 + signal.SIGXFSZ)
SENTENCES = {
    "memory": "the memory limit was reached\n",
    "pids": "the limit of processes and threads was reached\n",
    "disk": "the scratch space is full\n",
}


class Ending:
    """How a job ended, as the answer's fields."""

    def __init__(self, run: Run) -> None:
        self.ok = False
        self.limit: str | None = None
        self.extra, self.result = "", "null"
        self.files: dict[str, bytes] = {}
        self.truncated = run.stopped == "output"
        if self.truncated:
            self.limit = "output"
        elif run.stopped == "broken":
            self.extra = BROKEN
        elif run.report is not None and run.code == 0:
            self._believe(run.report, run.left)
        else:
            self.ok = run.code == 0
            self.extra = _status(run.code)

    def _believe(self, report: dict[str, object], left: int) -> None:
        self.ok = report.get("ok") is True
        limit = report.get("limit")
        self.limit = str(limit) if limit in ("memory", "disk", "output") else None
        self.truncated = limit == "output"
        self.extra = str(report.get("extra", ""))[:EXTRA_CHARS]
        result = report.get("result")
        if not self.ok or not isinstance(result, str):
            return
        if len(result) > left:
            self.fail("output", "")
            self.truncated = True
        elif _is_json(result):
            self.result = result
        else:
            self.fail(None, "result is not JSON\n")

    def fail(self, limit: str | None, extra: str) -> None:
        self.ok, self.limit, self.result = False, limit, "null"
        self.extra += extra


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _status(code: int) -> str:
    if code < 0:
        return f"killed by signal {-code}\n"
    return f"exit status {code}\n" if code else ""


def _limit_met(run: Run, before: dict[str, int], folder: str) -> str | None:
    """The limit in whose way a failed job stood, by the kernel's account."""
    after = probe.met()
    for name in ("memory", "pids"):
        if after[name] > before[name]:
            return name
    space = os.statvfs(folder)
    full = space.f_bavail == 0 or (space.f_files > 0 and space.f_ffree == 0)
    return "disk" if full or run.code in TOO_LARGE else None


def _judge(run: Run, job: Job, before: dict[str, int]) -> Ending:
    ending = Ending(run)
    if not ending.ok and ending.limit is None:
        limit = _limit_met(run, before, job.folder)
        if limit is not None:
            ending.fail(limit, SENTENCES[limit])
    if job.files_out and ending.limit is None and run.stopped is None:
        try:
            ending.files = work.collect(job.folder, {*job.files, "ARGS"}, job.now, job.files_out)
        except work.TooMuch as error:
            ending.fail("files_out", f"{error}\n")
    return ending


def _pieces(run: Run, ending: Ending) -> list[bytes]:
    """The answer's JSON in parts, so that files are in memory once."""
    cut = "ignore" if ending.truncated else "replace"
    fields = {
        "ok": ending.ok,
        "limit": ending.limit,
        "stdout": run.printed[1].decode(errors=cut),
        "stderr": run.printed[2].decode(errors=cut) + ending.extra,
        "truncated": ending.truncated,
    }
    pieces = [json.dumps(fields)[:-1].encode(), b',"result":', ending.result.encode(), b',"files":{']
    for number, (name, text) in enumerate(ending.files.items()):
        pieces += [b"," if number else b"", json.dumps(name).encode(), b':"', text, b'"']
    return [*pieces, b"}}"]


def _lay(job: Job) -> None:
    texts = {}
    if job.command:
        texts[work.ARGS] = job.args
        if job.program:
            texts[work.PROGRAM] = job.program
    work.lay(job.folder, job.files, texts, job.now)


def serve(gate: socket, folder: str) -> None:
    """One job, from its frame to its answer. Raises `EOFError`, `HostGone` or `ConnectionError` when nobody waits."""
    frame = json.loads(wire.receive(gate))
    start = time.monotonic()
    job = Job(frame, json.loads(frame["terms"]), folder, start)
    before = probe.met()
    try:
        _lay(job)
    except OSError as error:
        _answer_unstarted(gate, error, start)
        return
    run = Run(gate, job)
    run.start()
    run.attend()
    how, pieces = "returned", []
    if run.stopped in ("interrupt", "host_calls"):
        how = run.stopped
    else:
        pieces = _pieces(run, _judge(run, job, before))
        if sum(map(len, pieces)) > job.answer_cap:
            how, pieces = "oversize", []
    _answer(gate, how, pieces, start)


def _answer_unstarted(gate: socket, error: OSError, start: float) -> None:
    text = f"the job's files cannot be laid: {error.strerror}\n"
    fields = {"ok": False, "limit": "disk", "stdout": "", "stderr": text, "truncated": False, "result": None}
    _answer(gate, "returned", [json.dumps(fields).encode()], start)


def _answer(gate: socket, how: str, pieces: list[bytes], start: float) -> None:
    wire.send_json(gate, {"kind": "exit", "how": how, "ms": round((time.monotonic() - start) * 1000, 3)})
    if pieces:
        wire.send(gate, *pieces)


def main(arguments: list[str]) -> None:
    path, folder = [*arguments, *(SOCKET, FOLDER)[len(arguments) :]]
    # The child has our uid: it must not open our memory or our descriptors.
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # The first process of a container is safe from every signal it has no handler for; Python has one for this.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gate = socket(AF_UNIX, SOCK_STREAM)
    gate.connect(path)
    wire.send_json(gate, {"kind": "ready", "facts": probe.facts()})
    gc.freeze()
    try:
        serve(gate, folder)
    except (EOFError, HostGone, ConnectionError):
        os._exit(0)  # nobody waits for this job any more; the container ends with us


if __name__ == "__main__":
    main(sys.argv[1:])
