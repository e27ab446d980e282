"""The program of the Python guest: runs one snippet and answers with one JSON text.

Everything is imported before the snapshot is taken, so that a fresh VM starts ready. Runs inside the guest only;
what it reports is the guest's own claim, and the host checks sizes and shape again. Never trusted with a limit.
"""

import sys

# Python's own datetime: the C one asks the system clock, and its types cannot be changed.
sys.modules["_datetime"] = None  # type: ignore[assignment]  # None means: refuse to import

import world  # type: ignore[import-not-found]  # noqa: E402, I001  # lies beside this file when the component is built

import abc, argparse, array, ast, base64, binascii, bisect, calendar, cmath, collections, collections.abc  # noqa: E401, E402, F401
import colorsys, configparser, contextlib, contextvars, copy, csv, dataclasses, datetime, decimal, difflib  # noqa: E401, E402, F401
import enum, fnmatch, fractions, functools, gc, graphlib, gzip, hashlib, heapq, hmac, html, html.parser  # noqa: E401, E402, F401
import inspect, io, ipaddress, itertools, json, keyword, locale, logging, math, numbers, operator, pathlib  # noqa: E401, E402, F401
import pickle, pprint, queue, random, re, reprlib, secrets, shlex, statistics, string, struct, textwrap  # noqa: E401, E402, F401
import threading, time, timeit, tomllib, traceback, types, typing, unicodedata, urllib.parse, uuid, warnings  # noqa: E401, E402, F401
import weakref, xml.etree.ElementTree, zlib  # noqa: E401, E402, F401
import _strptime  # type: ignore[import-not-found]  # noqa: E402, F401  # has no stub

from wit_world.imports import host  # type: ignore[import-not-found]  # noqa: E402  # written by componentize-py

# A call by this name ends the run at once with the answer given; no tool can have it, for it begins with a dot.
EXIT = ".exit"
# A traceback may be this long beside the output limit; its middle is left out.
TRACEBACK_CHARS = 8192
# Where componentize-py mounts this file and `world.py`.
OURS = "/0/"
# A run of digits that may be an integer beyond 64 bits, once every digit is made a 0.
LONG_RUN = "0" * 19
DIGITS = dict.fromkeys(range(48, 58), 48)
OUT_OF_MEMORY = '{"ok":false,"limit":"memory","stdout":"","stderr":"MemoryError","truncated":true,"result":null}'


class ToolError(Exception):
    """A tool called from the snippet refused or failed; the text says why."""

    __module__ = "__main__"


class Output:
    """The bytes (as UTF-8) that stdout, stderr and the result may still have between them."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.cut = False
        self.stdout = Stream(self)
        self.stderr = Stream(self)

    def answer(self, ok: bool, limit: str | None, result: str = "null", extra: str = "") -> str:
        text = json.dumps(
            {
                "ok": ok,
                "limit": limit,
                "stdout": self.stdout.text.getvalue(),
                "stderr": self.stderr.text.getvalue() + extra,
                "truncated": self.cut,
            }
        )
        return f'{text[:-1]},"result":{result}}}'


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
            host.call(EXIT, output.answer(False, "output"))
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


def caller(tools: frozenset[str]) -> typing.Callable[..., object]:
    """`call(name, **arguments)` for the snippet: one of `tools`, run by the gateway as a call of its own."""

    def call(name: str, /, **arguments: object) -> object:
        if name not in tools:
            raise ToolError(f"{name!r} may not be called from here; allowed: {', '.join(sorted(tools)) or 'none'}")
        reply = json.loads(host.call(name, json.dumps(arguments, allow_nan=False)))
        if "error" in reply:
            raise ToolError(reply["error"])
        return reply["value"]

    return call


def explain(error: BaseException) -> str:
    """The traceback as the snippet's author wants it: without our own frames, and never too long."""
    try:
        story = traceback.TracebackException.from_exception(error)
        story.stack[:] = [frame for frame in story.stack if not frame.filename.startswith(OURS)]
        text = "".join(story.format())
    except Exception as second:  # noqa: BLE001  # the error's own __str__ may do anything
        text = f"{type(error).__name__} (its traceback could not be shown: {type(second).__name__})\n"
    if len(text) > TRACEBACK_CHARS:
        text = text[: TRACEBACK_CHARS // 2] + "\n  ...\n" + text[-TRACEBACK_CHARS // 2 :]
    return text


def leave(output: Output, error: SystemExit) -> str:
    """`sys.exit()` and `sys.exit(0)` end well; anything else is an error, its text kept."""
    if error.code is None or error.code == 0:
        return output.answer(True, None)
    text = error.code if isinstance(error.code, str) else f"SystemExit: {error.code!r}"
    return output.answer(False, None, extra=text[:TRACEBACK_CHARS] + "\n")


def big(value: object) -> bool:
    """Whether a JSON value holds an integer beyond 64 bits, which most readers of JSON would garble."""
    if isinstance(value, int):
        return not -(2**63) <= value < 2**64
    if isinstance(value, dict):
        return any(map(big, value.values()))
    return isinstance(value, list) and any(map(big, value))


def finish(output: Output, left: object) -> str:
    """The answer of a snippet that ran to its end and left this in `result`."""
    try:
        result = json.dumps(left, allow_nan=False)
        if LONG_RUN in result.translate(DIGITS) and big(json.loads(result)):
            raise ValueError("an integer is beyond 64 bits; make it a string")
    except (TypeError, ValueError, RecursionError) as error:
        return output.answer(
            False, None, extra=f"result is not JSON: {type(error).__name__}: {error}\n"[:TRACEBACK_CHARS]
        )
    if len(result) > output.left:
        output.cut = True
        return output.answer(False, "output")
    return output.answer(True, None, result)


def execute(code: str, names: dict[str, object], output: Output) -> str:
    try:
        exec(compile(code, world.TOOL, "exec"), names)  # noqa: S102  # this is the sandbox
        return finish(output, names.get("result"))
    except SystemExit as error:
        return leave(output, error)
    except MemoryError as error:
        if error.args:  # the parser says so of source that is nested too deeply
            return output.answer(False, None, extra=explain(error))
        error.__traceback__ = None
    except BaseException as error:  # noqa: BLE001  # the snippet may raise anything
        return output.answer(False, None, extra=explain(error))
    names.clear()
    gc.collect()
    return output.answer(False, "memory", extra="MemoryError: the memory limit was reached\n")


class WitWorld:
    def run(self, code: str, args: str, terms: str) -> str:
        given = json.loads(terms)
        world.TERMS.set(given["seed"], given["now"])
        world.show_source(code)
        output = Output(given["output"])
        sys.stdout = sys.__stdout__ = output.stdout  # type: ignore[misc, assignment]  # not a TextIOWrapper
        sys.stderr = sys.__stderr__ = output.stderr  # type: ignore[misc, assignment]  # not a TextIOWrapper
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        names = vars(main)
        names.update(args=json.loads(args), call=caller(frozenset(given["tools"])), ToolError=ToolError)
        gc.enable()
        try:
            return execute(code, names, output)
        except MemoryError:
            return OUT_OF_MEMORY


world.close()
# A collection during a short run would touch, and so copy, pages of the snapshot; a long one still gets its own.
gc.set_threshold(20_000, 10, 10)
gc.collect()
gc.disable()
gc.freeze()
