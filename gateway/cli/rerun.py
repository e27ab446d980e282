"""`toolgate audit rerun`: recorded code run again in its sandbox, and compared. Nothing goes out."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

from gateway.audit import query
from gateway.audit.text import printable
from gateway.backends import offers, open_backends
from gateway.cli.common import Arguments, Verbs, home_of, say, settings_of
from gateway.cli.judged import counted
from gateway.cli.reading import on_record
from gateway.loading import Loaded, load_folders
from gateway.rerun.run import Rerun, calls_of, code_of, rerun
from gateway.settings import Settings
from gateway.specs.yaml import SpecErrors
from gateway.tool import Json
from sandboxes.model import SandboxUnavailable


class _NothingThere(Exception):
    """There is nothing to go by; the text says why."""


def add(what: Verbs, common: ArgumentParser) -> None:
    """Adds the verb below `audit`."""
    verb = what.add_parser("rerun", parents=[common], help="run recorded WASM code again and compare what comes")
    which = verb.add_mutually_exclusive_group(required=True)
    which.add_argument("call_id", nargs="?", help="one call")
    which.add_argument("--session", metavar="ID", help="every call of a session, those that code made too")
    verb.add_argument("--specs", metavar="DIR", help="folder of tool specs")
    verb.set_defaults(run=run)


def run(arguments: Arguments) -> int:
    """Prints what differs. Exit 0 all that was run is the same, 1 something differs, 2 nothing could be run."""
    home = home_of(arguments).path
    settings = settings_of(arguments, specs=arguments.specs)
    try:
        found = _found(home, settings, arguments)
    except (_NothingThere, SpecErrors, SandboxUnavailable, sqlite3.Error, OSError, ValueError) as error:
        print("\n".join(map(printable, f"toolgate: {error}".split("\n"))), file=sys.stderr)
        return 2
    say(arguments, as_json(found), "\n".join(lines(found)))
    verdicts = {each.verdict for each in found}
    return 1 if "different" in verdicts else 0 if "same" in verdicts else 2


def _found(home: Path, settings: Settings, arguments: Arguments) -> list[Rerun]:
    if why := query.unverified(home):
        raise _NothingThere(why)
    session: str | None = arguments.session
    wanted = [arguments.call_id] if session is None else calls_of(home, session)
    if not wanted:
        raise _NothingThere(f"no call of a session {session} is on record")
    loaded = load_folders(settings.folder("tool_specs"), settings.folder("policies"), offers(settings.sandboxes))
    found = asyncio.run(run_again(home, settings, loaded, wanted))
    on_record(home, "audit rerun", {"call": arguments.call_id, "session": session}, len(found))
    return found


async def run_again(home: Path, settings: Settings, loaded: Loaded, wanted: Sequence[str]) -> list[Rerun]:
    """These calls run again, in sandboxes that are up for that only. Raises as `rerun`, and `SandboxUnavailable`."""
    small = settings.sandboxes.model_copy(update={"workers": 1})
    async with AsyncExitStack() as stack:
        sandboxes = await open_backends(small, code_of(home, loaded, wanted), stack, _to_stderr)
        return await rerun(home, loaded, sandboxes, wanted)


def lines(found: Sequence[Rerun]) -> Iterator[str]:
    """For people: each call that was run, what differs of it, and of the others how many and why."""
    for each in found:
        if each.verdict != "not-rerunnable":
            answered = f", {counted(each.answered, 'call')} answered from the record" if each.answered else ""
            yield f"{each.call_id} {each.tool}: {'the same' if each.verdict == 'same' else 'different'}{answered}"
            yield from (f"  {difference}" for difference in each.differences)
    tally = Counter(each.verdict for each in found)
    yield f"{tally['same']} the same, {tally['different']} different, {tally['not-rerunnable']} not rerunnable"
    for reason, count in Counter(each.reason for each in found if each.reason).most_common():
        yield f"  {count}: {reason}"


def as_json(found: Sequence[Rerun]) -> Json:
    """For machines: the counts and every call."""
    tally = Counter(each.verdict for each in found)
    counts = {verdict.replace("-", "_"): tally[verdict] for verdict in ("same", "different", "not-rerunnable")}
    return {**counts, "calls": [asdict(each) for each in found]}


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
