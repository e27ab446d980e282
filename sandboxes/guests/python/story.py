"""What a snippet's author reads when it failed: the traceback without our frames, and what to use instead.

Runs inside the guest only. Never trusts the error: its own `__str__` may do anything, and is cut.
"""

import sys
import traceback

# A traceback may be this long beside the output limit; its middle is left out.
LONGEST = 8192
# Where componentize-py mounts these files, and the standard library.
OURS = "/0/"

FETCH = "use fetch(url)"
TURNS = "do one thing after the other, as concurrent.futures.ThreadPoolExecutor does here"
INSTEAD = {
    **dict.fromkeys(("requests", "httpx", "urllib3", "aiohttp", "urllib.request", "http", "socket", "ssl"), FETCH),
    **dict.fromkeys(("ftplib", "smtplib", "websockets", "select", "selectors", "socketserver"), FETCH),
    **dict.fromkeys(("subprocess", "pty", "sh"), "no other program runs here; call(name, ...) asks a tool"),
    "multiprocessing": TURNS,
    **dict.fromkeys(("numpy", "scipy", "sympy"), "use lists with math, statistics, fractions and itertools"),
    **dict.fromkeys(("pandas", "polars"), "use csv, json, collections and statistics"),
    **dict.fromkeys(("matplotlib", "seaborn", "plotly", "PIL", "cv2"), "nothing can be drawn: give the numbers"),
    **dict.fromkeys(("bs4", "lxml", "html5lib"), "use html.parser or xml.etree.ElementTree"),
    **dict.fromkeys(("zoneinfo", "pytz", "tzdata"), "use datetime.timezone with a fixed offset"),
    **dict.fromkeys(("dateutil", "arrow", "pendulum"), "use datetime.strptime and datetime.fromisoformat"),
    **dict.fromkeys(("sqlite3", "duckdb", "sqlalchemy", "dbm", "shelve"), "use lists, dicts and json"),
    **dict.fromkeys(("bz2", "lzma", "compression.zstd"), "use zlib, gzip or zipfile"),
    **dict.fromkeys(("openpyxl", "xlrd", "xlsxwriter", "docx"), "use csv, or zipfile and xml.etree.ElementTree"),
    **dict.fromkeys(("ctypes", "cffi", "mmap"), "there is no native code and no shared memory"),
    **dict.fromkeys(("pydantic", "attr", "attrs"), "use dataclasses"),
    "tempfile": "open a file by a plain name, or use io.BytesIO",
    "yaml": "use json or tomllib",
    "regex": "use re",
    "pytest": "use assert",
}


def explain(error: BaseException) -> str:
    """The traceback as the snippet's author wants it: without our own frames, and never too long."""
    try:
        story = traceback.TracebackException.from_exception(error)
        _clean(story)
        text = "".join(story.format())
    except BaseException as second:  # noqa: BLE001  # the error's own __str__ may do anything
        text = f"{type(error).__name__} (its traceback could not be shown: {type(second).__name__})\n"
    if len(text) > LONGEST:
        text = text[: LONGEST // 2] + "\n  ...\n" + text[-LONGEST // 2 :]
    return text + _advice(error)


def _clean(story: traceback.TracebackException) -> None:
    stories = [story]
    while stories:
        one = stories.pop()
        one.stack[:] = [frame for frame in one.stack if not frame.filename.startswith(OURS)]
        if not one.stack:
            one.stack = None  # type: ignore[assignment]  # as `traceback` itself has it where there is no traceback
        stories += [inner for inner in (one.__cause__, one.__context__, *(one.exceptions or ())) if inner is not None]


def _advice(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and isinstance(error.name, str):
        root = error.name.partition(".")[0]
        if root in sys.modules and error.name not in INSTEAD:
            return ""
        fallback = "only a part of Python's standard library is, and nothing can be installed"
        return f"{error.name} is not here: {INSTEAD.get(error.name) or INSTEAD.get(root) or fallback}.\n"[:300]
    if isinstance(error, RuntimeError) and "start new thread" in str(error.args[:1]):
        return f"No thread can be started here: {TURNS}.\n"
    return ""
