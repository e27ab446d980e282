"""One job from start to end: its process, what it prints, its calls of tools, its time, and all its offspring.

Everything the process sends is hostile. Never waits for it beyond its time, and never keeps more than its output limit.
"""

import math
import os
import select
import signal
import time
from _socket import AF_UNIX, SOCK_STREAM, socket, socketpair
from contextlib import suppress

from sandboxes.images.inside import child, wire

PART = 64 * 1024
ARGS_CAP = 256 * 1024
SPARE = 128 * 1024
# Characters of a call as JSON take up to 12 bytes.
CALL_CAP = ARGS_CAP * 12 + SPARE
# Beside the output limit, so many characters of the child's own report are kept.
EXTRA_CHARS = 10_000
ROUNDS = 200
# Exit status of a child that could not become the program.
UNBORN = 125


class Job:
    """What the runner was asked to do, out of the host's frame. due: `time.monotonic()` seconds."""

    def __init__(self, frame: dict[str, object], terms: dict[str, object], folder: str, start: float) -> None:
        self.program = str(frame["program"])
        self.command = _texts(frame["command"])
        self.args = str(frame["args"])
        self.tools = _texts(terms["tools"])
        self.files = terms["files"] if isinstance(terms["files"], dict) else {}
        self.folder = folder
        self.now = float(str(terms["now"]))
        self.output = int(str(terms["output"]))
        self.files_out = int(str(terms["files_out"]))
        self.host_calls = int(str(frame["host_calls"]))
        self.answer_cap = int(str(frame["answer_cap"]))
        self.due = start + float(str(frame["wall"]))


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


class HostGone(Exception):
    """The gate is closed: nobody waits for this job any more."""


class Run:
    """A job as it goes on. stopped: why it was ended by us ("interrupt", "output", "host_calls", "broken"), or None.

    printed: stdout and stderr, as far as the output limit allows. report: what the child said at its end, if anything.
    code: the exit status, negative for a signal.
    """

    def __init__(self, gate: socket, job: Job) -> None:
        self.stopped: str | None = None
        self.printed = {1: bytearray(), 2: bytearray()}
        self.report: dict[str, object] | None = None
        self.code = 0
        self.left = job.output
        self._gate = gate
        self._job = job
        self._calls_left = job.host_calls
        self._splitter = wire.Splitter(max(CALL_CAP, job.output * 6 + SPARE))
        self._poll = select.poll()
        self._streams: dict[int, int] = {}
        self._status: int | None = None

    def start(self) -> None:
        """Forks; the child becomes the program and does not come back."""
        self._calls, theirs = socketpair(AF_UNIX, SOCK_STREAM)
        stdin = os.open("/dev/null" if not self._job.command else f"{self._job.folder}/.args", os.O_RDONLY)
        (out, out_end), (err, err_end), (self._woken, wake) = os.pipe(), os.pipe(), os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._be_child((stdin, out_end, err_end, theirs.fileno()))
            finally:
                os._exit(UNBORN)  # whatever went wrong: there is one runner only
        theirs.close()
        for end in (stdin, out_end, err_end):
            os.close(end)
        self._streams = {out: 1, err: 2}
        self._calls.setblocking(False)
        for end in (out, err):
            os.set_blocking(end, False)
        for end in (out, err, self._calls.fileno(), self._woken, self._gate.fileno()):
            self._poll.register(end, select.POLLIN)

    def _be_child(self, ends: tuple[int, int, int, int]) -> None:
        job = self._job
        child.become(ends, job.folder)
        if job.command:
            child.replace([*job.command, *([f"{job.folder}/.program"] if job.program else [])])
        child.snippet(job.program, job.args, job.tools, job.folder, job.output)

    def attend(self) -> None:
        """Until the process has ended or was stopped; then nothing of it runs any more, and all it printed is read."""
        try:
            self._watch()
        finally:
            self.code = self._end_all()
        for descriptor in list(self._streams):
            while self.stopped is None and self._read(descriptor):
                pass
        while self.stopped is None and self._hear():
            pass

    def _watch(self) -> None:
        while self._status is None and self.stopped is None:
            left = self._job.due - time.monotonic()
            ready = self._poll.poll(math.ceil(left * 1000)) if left > 0 else []
            if not ready:
                self.stopped = "interrupt"
            for descriptor, _events in ready:
                self._look(descriptor)

    def _look(self, descriptor: int) -> None:
        if descriptor in self._streams:
            self._read(descriptor)
        elif descriptor == self._woken:
            os.read(descriptor, PART)
            self._reap()
        elif descriptor == self._gate.fileno():
            raise HostGone
        elif not self._hear():
            self._poll.unregister(descriptor)

    def _read(self, descriptor: int) -> bool:
        """Takes what a stream has; False when there is nothing more to come."""
        try:
            part = os.read(descriptor, PART)
        except BlockingIOError:
            return False
        if not part:
            self._poll.unregister(descriptor)
            del self._streams[descriptor]
            return False
        if len(part) > self.left:
            self.stopped = "output"
        self.printed[self._streams[descriptor]] += part[: self.left]
        self.left -= min(len(part), self.left)
        return True

    def _hear(self) -> bool:
        """Takes what the child says on the line of calls; False when there is nothing more to come."""
        try:
            part = self._calls.recv(PART)
        except (BlockingIOError, ConnectionError):
            return False
        try:
            for frame in self._splitter.feed(part):
                self._take(frame)
        except wire.Broken:
            self.stopped = "broken"
        return bool(part)

    def _take(self, frame: dict[str, object]) -> None:
        report, name, args = frame.get("end"), frame.get("name"), frame.get("args")
        if isinstance(report, dict):
            self.report = self.report or report
        elif isinstance(name, str) and isinstance(args, str):
            if self.stopped is None:
                self._call(name, args)
        else:
            raise wire.Broken

    def _call(self, name: str, args: str) -> None:
        if self._calls_left <= 0:
            self.stopped = "host_calls"
            return
        self._calls_left -= 1
        try:
            self._calls.settimeout(self._remaining())
            wire.send(self._calls, self._forward(name, args))
            self._calls.setblocking(False)
        except TimeoutError:
            self.stopped = "interrupt"
        except ConnectionError:
            pass  # it does not wait for its answer; that it ended is seen elsewhere

    def _forward(self, name: str, args: str) -> bytes:
        if len(name) + len(args) > ARGS_CAP:
            return b'{"error":"the arguments are over %d characters"}' % ARGS_CAP
        try:
            self._gate.settimeout(self._remaining())
            wire.send_json(self._gate, {"kind": "call", "name": name, "args": args})
            return wire.receive(self._gate)
        except (EOFError, ConnectionError):
            raise HostGone from None
        finally:
            self._gate.settimeout(None)

    def _remaining(self) -> float:
        return max(self._job.due - time.monotonic(), 0.001)

    def _reap(self) -> None:
        """Buries what has ended: our own child, and orphans, for the dead count as processes until somebody does."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._pid:
                    self._status = ended[1]

    def _end_all(self) -> int:
        """Kills the job's process and all that came of it, and waits for them. Gives the exit status of the first.

        The runner inherits orphans (see `runner.main`), so each round reaches one generation deeper.
        """
        for _ in range(ROUNDS):
            offspring = children()
            if not offspring:
                break
            for each in offspring:
                os.kill(each, signal.SIGKILL)
            for each in offspring:
                status = os.waitpid(each, 0)[1]
                if each == self._pid:
                    self._status = status
        return UNBORN if self._status is None else os.waitstatus_to_exitcode(self._status)


def children() -> list[int]:
    """The processes whose parent we are."""
    mine = str(os.getpid())
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # ended meanwhile
            if fields[1].decode() == mine:
                found.append(int(name))
    return found
