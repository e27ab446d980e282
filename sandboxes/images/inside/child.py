"""The process the job runs in: a fork of the runner that gives up the runner's descriptors and becomes the program.

A command replaces it; a Python snippet runs in it at once, which saves the start of an interpreter. From here on
everything is in the hands of whoever wrote the program. Never holds the gate: its calls of tools go to the runner.
"""

import atexit
import ctypes
import errno
import fcntl
import json
import os
import signal
import site
import sys
from types import ModuleType

from sandboxes.images.inside.calls import Calls, Line, ToolError, Tools

TOOL = "<tool>"
OURS = __file__.rpartition("/")[0]
CALLS = 3
# Descriptors are moved above the ones they are to become, then down.
ABOVE = 10
MANY = 1 << 20
TRACEBACK_CHARS = 8192
PR_SET_DUMPABLE = 4
FIRST_TO_GO = b"1000"
LONG_RUN = "0" * 19
DIGITS = dict.fromkeys(range(48, 58), 48)
FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
prctl = ctypes.CDLL(None, use_errno=True).prctl


def become(ends: tuple[int, int, int, int], folder: str) -> None:
    """Leaves the runner's session and descriptors; the first to be killed when memory is short.

    ends: descriptors of stdin, stdout, stderr and the line of calls.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    with open("/proc/self/oom_score_adj", "wb") as file:
        file.write(FIRST_TO_GO)
    for place, high in enumerate([fcntl.fcntl(end, fcntl.F_DUPFD, ABOVE) for end in ends]):
        os.dup2(high, place)
    os.closerange(CALLS + 1, MANY)
    os.chdir(folder)
    os.environ.clear()
    path = "/usr/local/bin:/usr/bin:/bin"
    os.environ.update(PATH=path, HOME=folder, LANG="C.UTF-8", TOOLGATE_CALLS=str(CALLS))


def replace(command: list[str]) -> None:
    """Becomes `command`; where it cannot be started, says so and ends as a shell would. Never returns."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def snippet(program: str, args: str, names: list[str], folder: str, output: int) -> None:
    """Runs `program` as `__main__`, then what it left to be done at exit, and reports how it ended. Never returns.

    output: bytes, beyond which a result is not even handed on.
    """
    sys.path.remove(OURS.removesuffix("/sandboxes/images/inside"))
    site.setquit()
    for packages in site.getsitepackages():
        site.addsitedir(packages)
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115  # for good
    sys.stdout = open(1, "w", 1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115  # for good
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115  # for good
    sys.argv = [TOOL]
    line = Line(CALLS, folder)
    own = Calls(line, names)
    main = sys.modules["__main__"] = ModuleType("__main__")
    names_given = {"call": own.call, "fetch": own.fetch, "tools": Tools(own), "ToolError": ToolError}
    vars(main).update(names_given, args=json.loads(args))
    own_pid = os.getpid()
    report = execute(program, vars(main), output)
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    # As at the end of any program: files that were left open are written out.
    vars(main).clear()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.getpid() == own_pid:  # a fork of the snippet that comes to its end has nothing to report
        line.end(report)
    # Taking the interpreter apart would copy every page that the runner shares with us: 5 ms for nothing.
    os._exit(0)


def execute(program: str, names: dict[str, object], output: int) -> dict[str, object]:
    """How it ended: ok, limit, extra (text for stderr), result (JSON text, or None)."""
    try:
        exec(compile(program, TOOL, "exec"), names)  # noqa: S102  # this is the sandbox
        return finish(names.get("result"), output)
    except SystemExit as error:
        return leave(error)
    except MemoryError as error:
        if error.args:  # the parser says so of source that is nested too deeply
            return failed(explain(error, program))
        return failed("MemoryError: the memory limit was reached\n", "memory")
    except BaseException as error:  # noqa: BLE001  # the snippet may raise anything
        full = isinstance(error, OSError) and error.errno in FULL
        return failed(explain(error, program), "disk" if full else None)


def failed(extra: str, limit: str | None = None) -> dict[str, object]:
    return {"ok": False, "limit": limit, "extra": extra, "result": None}


def finish(left: object, output: int) -> dict[str, object]:
    """The report of a snippet that ran to its end and left this in `result`."""
    try:
        result = json.dumps(left, allow_nan=False)
        if len(result) > output:
            return failed("", "output")
        if LONG_RUN in result.translate(DIGITS) and big(json.loads(result)):
            raise ValueError("an integer is beyond 64 bits; make it a string")
    except (TypeError, ValueError, RecursionError) as error:
        return failed(f"result is not JSON: {type(error).__name__}: {error}\n"[:TRACEBACK_CHARS])
    return {"ok": True, "limit": None, "extra": "", "result": result}


def big(value: object) -> bool:
    """Whether a JSON value holds an integer beyond 64 bits, which most readers of JSON would garble."""
    if isinstance(value, int):
        return not -(2**63) <= value < 2**64
    if isinstance(value, dict):
        return any(map(big, value.values()))
    return isinstance(value, list) and any(map(big, value))


def leave(error: SystemExit) -> dict[str, object]:
    """`sys.exit()` and `sys.exit(0)` end well; anything else is an error, its text kept."""
    if error.code is None or error.code == 0:
        return {"ok": True, "limit": None, "extra": "", "result": None}
    try:
        text = error.code if isinstance(error.code, str) else f"SystemExit: {error.code!r}"
    except Exception as second:  # noqa: BLE001  # its __repr__ may do anything
        text = f"SystemExit (its code could not be shown: {type(second).__name__})"
    return failed(text[:TRACEBACK_CHARS] + "\n")


def explain(error: BaseException, program: str) -> str:
    """The traceback as the snippet's author wants it: without our own frames, and never too long."""
    try:
        import linecache  # noqa: PLC0415  # an idle container does without its 200 KiB
        import traceback  # noqa: PLC0415  # nor its 400 KiB

        linecache.cache[TOOL] = (len(program), None, program.splitlines(keepends=True), TOOL)
        story = traceback.TracebackException.from_exception(error)
        story.stack[:] = [frame for frame in story.stack if not frame.filename.startswith(OURS)]
        text = "".join(story.format())
    except Exception as second:  # noqa: BLE001  # the error's own __str__ may do anything
        text = f"{type(error).__name__} (its traceback could not be shown: {type(second).__name__})\n"
    if len(text) > TRACEBACK_CHARS:
        text = text[: TRACEBACK_CHARS // 2] + "\n  ...\n" + text[-TRACEBACK_CHARS // 2 :]
    return text
