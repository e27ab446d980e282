"""What a snippet calls the outside with: `tools.NAME`, `fetch`, and asyncio and executors that run in turn."""

import json

import pytest

from sandboxes.model import CallRefused, Exit, Job
from sandboxes.pool import WasmPython

TOOLS = frozenset({"add", "no-way", "net.fetch"})


async def outside(name: str, args: bytes) -> bytes:
    given = json.loads(args)
    if name == "net.fetch":
        return json.dumps({"status": 201, "headers": {"Content-Type": "x"}, "body": json.dumps(given)}).encode()
    if name == "no-way":
        raise CallRefused("refused: only on Mondays")
    return json.dumps(given["a"] + given["b"]).encode()


def run(play, program: str, tools: frozenset[str] = TOOLS) -> Exit:
    seen: list[Exit] = []

    async def scenario(pool: WasmPython) -> None:
        seen.append(await pool.run(Job(program, tools=tools), outside))

    play(scenario, spares=0)
    return seen[0]


WORKS = {
    "a stub": ("print(tools.add(a=1, b=2), tools.add.__name__)", "3 add\n"),
    "a stub by any name": (
        "try: getattr(tools, 'no-way')()\nexcept ToolError as e: print(e)",
        "refused: only on Mondays\n",
    ),
    "the list": ("print(dir(tools), tools)", "['add', 'no-way'] <tools: add, no-way>\n"),
    "no such stub": ("print(hasattr(tools, 'sub'), hasattr(tools, 'add'))", "False True\n"),
    "fetch": (
        "r = fetch('https://x.example/')\nprint(r.status, r.headers, r.text, r.json()['url'], r)",
        '201 {\'content-type\': \'x\'} {"method": "GET", "url": "https://x.example/"} https://x.example/ '
        "<Response 201, 46 characters>\n",
    ),
    "fetch with everything": (
        "print(fetch('u', 'post', headers={'A': 'b'}, body='é').json())",
        "{'method': 'POST', 'url': 'u', 'headers': {'A': 'b'}, 'body': 'é'}\n",
    ),
    "fetch of bytes": ("print(fetch('u', 'PUT', body='é'.encode()).json()['body'])", "é\n"),
    "tasks take turns on the job's clock": (
        "import asyncio, time\nasync def f(n):\n await asyncio.sleep(n); print(n); return n\n"
        "async def main(): return await asyncio.gather(f(3), f(1), f(2))\n"
        "s = time.monotonic(); print(asyncio.run(main()), round(time.monotonic() - s))",
        "1\n2\n3\n[3, 1, 2] 3\n",
    ),
    "a timeout": (
        "import asyncio\nasync def f():\n try:\n  async with asyncio.timeout(5): await asyncio.Event().wait()\n"
        " except TimeoutError: print('late')\nasyncio.run(f())",
        "late\n",
    ),
    "a thread of asyncio": (
        "import asyncio\nprint(asyncio.run(asyncio.to_thread(call, 'add', a=1, b=2)))",
        "3\n",
    ),
    "an executor": (
        "from concurrent.futures import ThreadPoolExecutor, as_completed\nwith ThreadPoolExecutor(4) as e:\n"
        " print(list(e.map(lambda n: tools.add(a=n, b=n), [1, 2])))\n"
        " for f in as_completed([e.submit(int, 'x')]): print(repr(f.exception()))",
        "[2, 4]\nValueError(\"invalid literal for int() with base 10: 'x'\")\n",
    ),
}
FAILS = {
    "no such tool": ("tools.ad(a=1)", ["AttributeError: there is no tool 'ad' here", "Did you mean: 'add'?"]),
    "by position": ("tools.add(1, 2)", ["TypeError: tools.add() takes 0 positional arguments but 2 were given"]),
    "a body that is no text": ("fetch('u', body={})", ["TypeError: body must be text, not dict; for JSON: json.dumps"]),
    "caught and raised again": (
        "try: call('no-way')\nexcept ToolError:\n x = 1\n raise",
        ["line 1, in <module>", "ToolError: refused: only on Mondays"],
    ),
    "raised from it": (
        "try: call('no-way')\nexcept ToolError as e: raise KeyError('k') from e",
        ["ToolError: refused", "direct cause", "KeyError: 'k'"],
    ),
    "in a group": (
        "try: call('no-way')\nexcept ToolError as e: raise ExceptionGroup('g', [e])",
        ["ExceptionGroup: g", "ToolError: refused"],
    ),
    "tasks that wait for each other": (
        "import asyncio\nasync def f(): await asyncio.Event().wait()\nasyncio.run(f())",
        ["RuntimeError: deadlock: every task waits for another"],
    ),
    "a connection": (
        "import asyncio\nasyncio.run(asyncio.open_connection('x.example', 80))",
        ["PermissionError: there is no network in this sandbox: use fetch(url)"],
    ),
    "a thread": (
        "import threading\nthreading.Thread(target=print).start()",
        ["No thread can be started here: do one thing after the other"],
    ),
}


@pytest.mark.parametrize("name", WORKS)
def test_what_works(play, name):
    """The snippet reaches what it was granted, by each of the ways that it is offered."""
    program, stdout = WORKS[name]
    done = run(play, program)
    assert (done.status, done.stdout) == ("ok", stdout), done.stderr


@pytest.mark.parametrize("name", FAILS)
def test_what_fails_says_why(play, name):
    """The error names the reason, in a traceback that holds no frame of the sandbox's own code."""
    program, parts = FAILS[name]
    done = run(play, program)
    assert done.status == "error"
    assert [part for part in parts if part not in done.stderr] == [], done.stderr
    assert "/0/" not in done.stderr


def test_without_the_grant_nothing_is_fetched(play):
    """`fetch` without `net.fetch` among the tools is a `ToolError` that says so, and no call is made."""
    done = run(play, "try: fetch('https://x.example/')\nexcept ToolError as e: print(e)", frozenset({"add"}))
    assert done.stdout == "nothing can be fetched from here: this code was granted no network\n"
    assert done.usage.host_calls == 0


def test_without_tools_the_list_is_empty(play):
    """A snippet that may call nothing sees an empty list, and its error says that none is allowed."""
    done = run(play, "print(dir(tools))\ntools.add()", frozenset())
    assert done.stdout == "[]\n"
    assert "there is no tool 'add' here; allowed: none" in done.stderr
