"""The program of the Python guest: runs one snippet and answers with one JSON text.

Everything is imported before the snapshot is taken, so that a fresh VM starts ready. Runs inside the guest only;
what it reports is the guest's own claim, and the host checks sizes and shape again. Never trusted with a limit.
"""

import sys

# Python's own datetime: the C one asks the system clock, and its types cannot be changed.
sys.modules["_datetime"] = None  # type: ignore[assignment]  # None means: refuse to import

import world  # type: ignore[import-not-found]  # noqa: E402, I001  # lies beside this file when the component is built

import abc, argparse, array, ast, asyncio, base64, binascii, bisect, calendar, cmath, codecs, collections  # noqa: E401, E402, F401
import collections.abc, colorsys, concurrent.futures, configparser, contextlib, contextvars, copy, csv  # noqa: E401, E402, F401
import dataclasses, datetime, decimal, difflib, enum, errno  # noqa: E401, E402, F401
import fnmatch, fractions, functools, gc, glob, graphlib, gzip, hashlib, heapq, hmac, html, html.parser  # noqa: E401, E402, F401
import inspect, io, ipaddress, itertools, json, keyword, locale, logging, math, numbers, operator, pathlib  # noqa: E401, E402, F401
import pickle, pprint, queue, random, re, reprlib, secrets, shlex, shutil, stat, statistics, string  # noqa: E401, E402, F401
import struct, tarfile, textwrap, threading, time, timeit, tomllib, traceback, types, typing, unicodedata  # noqa: E401, E402, F401
import urllib.parse, uuid, warnings, weakref, xml.etree.ElementTree, zipfile, zlib  # noqa: E401, E402, F401
import _strptime  # type: ignore[import-not-found]  # noqa: E402, F401  # has no stub

import calls, loop  # type: ignore[import-not-found]  # noqa: E401, E402  # lie beside this file
from folder import FOLDER  # type: ignore[import-not-found]  # noqa: E402  # lies beside this file
from story import LONGEST, explain  # type: ignore[import-not-found]  # noqa: E402  # lies beside this file
from wit_world.imports import host  # type: ignore[import-not-found]  # noqa: E402  # written by componentize-py

# Files that may be given back.
MAX_FILES = 32
# A call by this name ends the run at once with the answer given; no tool can have it, for it begins with a dot.
EXIT = ".exit"
# A run of digits that may be an integer beyond 64 bits, once every digit is made a 0.
LONG_RUN = "0" * 19
DIGITS = dict.fromkeys(range(48, 58), 48)
BROKEN = '{"ok":false,"limit":null,"stdout":"","stderr":"no answer could be made","truncated":true,"result":null}'
OUT_OF_MEMORY = '{"ok":false,"limit":"memory","stdout":"","stderr":"MemoryError","truncated":true,"result":null}'


@dataclasses.dataclass(slots=True)
class Ending:
    """How the snippet ended. limit: the one it reached. result: as JSON. said: after all that stands in stderr."""

    ok: bool
    limit: str | None = None
    result: str = "null"
    said: str = ""


class Output:
    """The bytes (as UTF-8) that stdout, stderr and the result may still have between them."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.cut = False
        self.stdout = Stream(self)
        self.stderr = Stream(self)

    def answer(self, ending: Ending, files: str = "{}") -> str:
        text = json.dumps(
            {
                "ok": ending.ok,
                "limit": ending.limit,
                "stdout": self.stdout.text.getvalue(),
                "stderr": self.stderr.text.getvalue() + ending.said,
                "truncated": self.cut,
            }
        )
        return f'{text[:-1]},"files":{files},"result":{ending.result}}}'


class Stream(io.TextIOBase):
    """stdout or stderr. Writing past the limit keeps what fits and ends the run."""

    encoding = "utf-8"

    def __init__(self, output: Output) -> None:
        self.text = io.StringIO()
        self.output = output

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        output = self.output
        size = len(text)
        if size <= output.left and not text.isascii():
            size = len(text.encode("utf-8", "surrogatepass"))
        if size > output.left:
            part = text[: output.left].encode("utf-8", "replace")[: output.left]
            self.text.write(part.decode("utf-8", "ignore"))
            output.left = 0
            output.cut = True
            host.call(EXIT, output.answer(Ending(False, "output")))
        self.text.write(text)
        output.left -= size
        return len(text)

    @property
    def buffer(self) -> "Bytes":
        return Bytes(self)


class Bytes(io.RawIOBase):
    """`sys.stdout.buffer`: bytes that are shown as text."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def writable(self) -> bool:
        return True

    def write(self, content: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]  # narrower on purpose
        self.stream.write(bytes(content).decode("utf-8", "replace"))
        return len(content)


def leave(error: SystemExit) -> Ending:
    """`sys.exit()` and `sys.exit(0)` end well; anything else is an error, its text kept."""
    if error.code is None or error.code == 0:
        return Ending(True)
    try:
        text = error.code if isinstance(error.code, str) else f"SystemExit: {error.code!r}"
    except BaseException as second:  # noqa: BLE001  # its __repr__ may do anything
        text = f"SystemExit (its code could not be shown: {type(second).__name__})"
    return Ending(False, said=text[:LONGEST] + "\n")


def big(value: object) -> bool:
    """Whether a JSON value holds an integer beyond 64 bits, which most readers of JSON would garble."""
    if isinstance(value, int):
        return not -(2**63) <= value < 2**64
    if isinstance(value, dict):
        return any(map(big, value.values()))
    return isinstance(value, list) and any(map(big, value))


def finish(left: object) -> Ending:
    """The end of a snippet that ran through and left this in `result`."""
    try:
        result = json.dumps(left, allow_nan=False)
        if LONG_RUN in result.translate(DIGITS) and big(json.loads(result)):
            raise ValueError("an integer is beyond 64 bits; make it a string")
    except (TypeError, ValueError, RecursionError) as error:
        return Ending(False, said=f"result is not JSON: {type(error).__name__}: {error}\n"[:LONGEST])
    return Ending(True, result=result)


def execute(code: str, names: dict[str, object]) -> Ending:
    try:
        exec(compile(code, world.TOOL, "exec"), names)  # noqa: S102  # this is the sandbox
        return finish(names.get("result"))
    except SystemExit as error:
        return leave(error)
    except MemoryError as error:
        if error.args:  # the parser says so of source that is nested too deeply
            return Ending(False, said=explain(error))
        error.__traceback__ = None
    except BaseException as error:  # noqa: BLE001  # the snippet may raise anything
        return Ending(False, said=explain(error))
    names.clear()
    gc.collect()
    return Ending(False, "memory", said="MemoryError: the memory limit was reached\n")


def hand_over(output: Output, ending: Ending, files_out: int) -> str:
    """The answer, with the files that are new or changed if they are wanted and within their limit."""
    files: dict[str, bytes | bytearray] = FOLDER.left() if files_out and ending.limit is None else {}
    size = sum(map(len, files.values()))
    if size > files_out or len(files) > MAX_FILES:
        what = f"{len(files)} files of {size} bytes were left; at most {MAX_FILES} of {files_out} bytes may be"
        ending, files = Ending(False, "files_out", said=f"{ending.said}{what}\n"), {}
    if len(ending.result) > output.left:
        output.cut = True
        ending, files = Ending(False, "output"), {}
    encoded = [f'"{name}":"{binascii.b2a_base64(content, newline=False).decode()}"' for name, content in files.items()]
    return output.answer(ending, "{" + ",".join(encoded) + "}")


def begin(code: str, args: str, terms: str) -> str:
    given = json.loads(terms)
    world.TERMS.set(given["seed"], given["now"])
    for name in list(given["files"]):
        FOLDER.fill(name, binascii.a2b_base64(given["files"].pop(name)), world.TERMS.now_ns)
    world.show_source(code)
    output = Output(given["output"])
    sys.stdout = sys.__stdout__ = output.stdout  # type: ignore[misc, assignment]  # not a TextIOWrapper
    sys.stderr = sys.__stderr__ = output.stderr  # type: ignore[misc, assignment]  # not a TextIOWrapper
    sys.argv = [world.TOOL]
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    names = vars(main)
    own = calls.Calls(given["tools"])
    names.update(args=json.loads(args), call=own.call, tools=calls.Tools(own), fetch=own.fetch)
    names["ToolError"] = calls.ToolError
    gc.enable()
    ending = execute(code, names)
    if given["files_out"]:
        names.clear()  # as at the end of any program: archives that were left open are completed
    return hand_over(output, ending, given["files_out"])


class WitWorld:
    def run(self, code: str, args: str, terms: str) -> str:
        try:
            return begin(code, args, terms)
        except MemoryError:
            return OUT_OF_MEMORY
        except BaseException:  # noqa: BLE001  # the snippet may have broken whatever the answer is made with
            return BROKEN


loop.install()
world.close()
# A collection during a short run would touch, and so copy, pages of the snapshot; a long one still gets its own.
gc.set_threshold(20_000, 10, 10)
gc.collect()
gc.disable()
gc.freeze()
