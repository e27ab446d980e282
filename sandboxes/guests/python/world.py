"""What a snippet meets in place of the outside world: a given clock, a seeded random stream, and its own few files.

Runs inside the guest only. Every system call of the guest is a stub that aborts the VM without a word, so each
Python function that would make one is replaced here, by one that answers from the job or raises `OSError`.
This is comfort, not security: the wall is that the component imports nothing. Never used by the host side.
"""

import builtins
import codecs
import hashlib
import io
import linecache
import os
import pathlib
import posix
import random
import sys
import tarfile
import time
import types
import uuid
from typing import SupportsIndex

import files  # type: ignore[import-not-found]  # lies beside this file in the guest
import folder  # type: ignore[import-not-found]  # lies beside this file in the guest

TOOL = "<tool>"
NANO = 1_000_000_000
# Functions of `posix` that compute and ask nobody.
PURE = {
    "fspath",
    "strerror",
    "_path_normpath",
    "_path_splitroot",
    "_path_splitroot_ex",
    "_inputhook",
    "putenv",
    "unsetenv",
}
# Modules that are built in, or stay loaded for asyncio, and can do nothing but abort the VM.
ABSENT = {"_socket", "socket", "select", "selectors", "subprocess", "_posixsubprocess", "_sqlite3", "multiprocessing"}
CODECS = (
    *("ascii", "latin_1", "iso8859_15", "cp1252", "cp437", "utf_7", "utf_8", "utf_8_sig"),
    *("utf_16", "utf_16_le", "utf_16_be", "utf_32", "utf_32_le", "utf_32_be", "idna", "punycode"),
    *("unicode_escape", "raw_unicode_escape", "hex_codec", "base64_codec", "quopri_codec", "rot_13", "zlib_codec"),
)


CLOCK = types.SimpleNamespace(implementation="the job's", monotonic=True, adjustable=False, resolution=1e-6)


class Terms:
    """The clock and the random stream of this run. The clock moves a microsecond each time it is read."""

    now_ns = 0
    reads = 0
    skipped_ns = 0
    seed = b""
    draws = 0

    def set(self, seed: int, now: float) -> None:
        self.now_ns = round(now * 1_000_000) * 1000  # finer than this a float of our century is not
        self.reads = self.skipped_ns = self.draws = 0
        self.seed = seed.to_bytes(8, "little")
        random.seed(seed)

    def elapsed_ns(self) -> int:
        self.reads += 1
        return (self.reads - 1) * 1000 + self.skipped_ns

    def skip(self, seconds: float) -> None:
        """Moves the clock on, as a sleep would."""
        self.skipped_ns += round(seconds * NANO)

    def time_ns(self) -> int:
        return self.now_ns + self.elapsed_ns()

    def urandom(self, size: int, /) -> bytes:
        self.draws += 1
        return hashlib.shake_256(self.seed + self.draws.to_bytes(8, "little")).digest(size)


TERMS = Terms()


def blocked(what: str) -> types.FunctionType:
    """A function that refuses: `what` is the name the snippet used."""

    def refuse(*_args: object, **_named: object) -> object:
        raise PermissionError(f"{what} is not available in this sandbox")

    return refuse  # type: ignore[return-value]  # a plain function, whatever mypy calls it


class Absent:
    """Finds nothing, and stops the search for modules whose functions would abort the VM."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _own_files() -> None:
    for name, thing in list(vars(posix).items()):
        if isinstance(thing, types.BuiltinFunctionType) and name not in PURE:
            refuse = blocked(f"os.{name}")
            setattr(posix, name, refuse)
            if getattr(os, name, None) is thing:
                setattr(os, name, refuse)
    for name, stand_in in folder.FUNCTIONS.items():
        setattr(posix, name, stand_in)
        setattr(os, name, stand_in)
    for module in (io, sys.modules["_io"]):
        module.open = files.open_file  # type: ignore[attr-defined]  # stdlib parts no stub lists
        module.open_code = blocked("open_code")  # type: ignore[attr-defined]  # stdlib parts no stub lists
        module.FileIO = files.File  # type: ignore[attr-defined]  # stdlib parts no stub lists
    builtins.open = tarfile.bltn_open = files.open_file  # type: ignore[attr-defined]  # stdlib parts no stub lists
    pathlib.Path.touch = files.touch  # type: ignore[method-assign]  # the point
    builtins.input = blocked("input")
    sys.stdin = sys.__stdin__ = io.StringIO()  # type: ignore[misc, assignment]  # not a TextIOWrapper
    os.getpid = lambda: 1
    os.cpu_count = os.process_cpu_count = lambda: 1  # type: ignore[attr-defined]  # stdlib parts no stub lists
    os.isatty = lambda _fd: False
    os._exit = sys.exit  # type: ignore[assignment]  # a stub says it takes a status
    os.environ.clear()
    os.urandom = random._urandom = TERMS.urandom  # type: ignore[attr-defined]  # stdlib parts no stub lists
    uuid.getnode = lambda: 0x02_00_00_00_00_01
    uuid._generate_time_safe = uuid._UuidCreate = None  # type: ignore[attr-defined]  # stdlib parts no stub lists


def _seconds(at: "float | SupportsIndex | None") -> "float | SupportsIndex":
    return TERMS.time_ns() / NANO if at is None else at


def _given_clock() -> None:
    gmtime, localtime, strftime, asctime = time.gmtime, time.localtime, time.strftime, time.asctime
    for name, thing in list(vars(time).items()):
        if isinstance(thing, types.BuiltinFunctionType) and name not in {"mktime", "strptime"}:
            setattr(time, name, blocked(f"time.{name}"))
    time.time_ns = TERMS.time_ns
    time.time = lambda: TERMS.time_ns() / NANO
    time.get_clock_info = lambda _name, /: CLOCK
    for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
        setattr(time, f"{name}_ns", TERMS.elapsed_ns)
        setattr(time, name, lambda: TERMS.elapsed_ns() / NANO)
    time.gmtime = lambda at=None, /: gmtime(_seconds(at))
    time.localtime = lambda at=None, /: localtime(_seconds(at))
    time.strftime = lambda form, at=None, /: strftime(form, time.gmtime() if at is None else at)
    time.asctime = lambda at=None, /: asctime(time.gmtime() if at is None else at)
    time.ctime = lambda at=None, /: asctime(time.gmtime(at))


def _seeded_random() -> None:
    seed = random.Random.seed

    def seeded(self: random.Random, a: object = None, version: int = 2) -> None:
        seed(self, TERMS.urandom(32) if a is None else a, version)  # type: ignore[arg-type]  # any seed goes

    random.Random.seed = seeded  # type: ignore[method-assign]  # the point
    random.seed = random._inst.seed


def _no_open(event: str, _args: object) -> None:
    # The compiler opens the file a SyntaxError names, by C; this hook is asked first.
    if event == "open":
        raise PermissionError("open is not available in this sandbox")


def show_source(code: str) -> None:
    """Lets tracebacks quote the snippet's lines."""
    linecache.cache[TOOL] = (len(code), None, code.splitlines(keepends=True), TOOL)


def close() -> None:
    """Shuts the ways out that Python still believes in. Called once, after all imports, before the snapshot."""
    for name in CODECS:
        codecs.lookup(name)
    sys.path[:] = []
    sys.path_hooks[:] = []
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [Absent, *(finder for finder in sys.meta_path if "Path" not in repr(finder))]
    for name in ABSENT:
        sys.modules.pop(name, None)
    linecache.updatecache = lambda *_args, **_named: []
    linecache.checkcache = lambda *_args, **_named: None
    linecache.lazycache = lambda *_args, **_named: False
    _own_files()
    _seeded_random()
    sys.addaudithook(_no_open)


# At import, so that modules imported later that say `from time import monotonic` get ours.
_given_clock()
