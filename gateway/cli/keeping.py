"""`toolgate audit archive` and `audit retain`: old segments moved elsewhere, old content erased. The proof stands.

Files are moved here, by whoever may write to the home folder; the record of it is written by the gateway, if one runs.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from gateway.audit.archive import LEAST_AGE, Due, NotArchived, copy, due, open_folder, remove
from gateway.audit.disk import OsDisk
from gateway.cli.common import Arguments, Verbs, home_of, say, settings_of
from gateway.cli.reading import who
from gateway.cli.upkeep import carry_out, place_said, wrong
from gateway.ledger_ports import Moved, Upkeep
from gateway.units import BadUnit, seconds

_AT_ONCE = 500  # segments that one record names
_NOTHING: dict[str, Any] = {"sessions": 0, "keys": 0, "blobs": 0, "record": None}


def add(what: Verbs, common: ArgumentParser) -> None:
    """Adds both to the verbs of `audit`."""
    archive = what.add_parser("archive", parents=[common], help="move old segments elsewhere, and keep the proof")
    archive.add_argument("--before", required=True, help="age of what is moved, for example 90d; 1d or more")
    archive.add_argument("--to", required=True, type=Path, help="folder that is there, which gets them by shard")
    archive.set_defaults(run=run_archive)
    retain = what.add_parser("retain", parents=[common], help="erase content that was kept for long enough, now")
    retain.set_defaults(run=run_retain)
    for verb in (archive, retain):
        verb.add_argument("--url", help="gateway to ask, if one is running (default: the one of this home)")
        verb.add_argument("--key", help="operator's key; better given as TOOLGATE_KEY")


def run_archive(arguments: Arguments) -> int:
    """Copies, puts on record, removes. Exit 1 when something does not let it, 2 for a wrong age or folder."""
    home = home_of(arguments)
    try:
        age = seconds(arguments.before)
        to = open_folder(arguments.to)
    except (BadUnit, NotArchived) as error:
        return wrong(str(error))
    if age < LEAST_AGE:
        return wrong("--before: 1d at least; policy reads the calls of a day back at a start")
    if to.is_relative_to(home.path.resolve()):
        return wrong("--to: a folder outside the home folder")
    try:
        found = due(home.path, time.time() - age)
        return _archived(arguments, found, to)
    except (NotArchived, OSError, ValueError) as error:
        return wrong(str(error), 1)


def _archived(arguments: Arguments, found: Due, to: Path) -> int:
    if found.kept_by is not None:
        wrong(f"the rest stays: how {found.kept_by} ended is not settled (see toolgate audit in-doubt)")
    if not found.sealed:
        say(arguments, {"first": None, "last": None, "to": str(to), "record": None}, "no segment is old enough")
        return 0
    disk, sealed = OsDisk(), found.sealed[:_AT_ONCE]
    digests = {segment.path.name: copy(segment, to, disk) for segment in sealed}
    moved = Moved(found.shard.name, sealed[0].first, sealed[-1].end - 1, digests, str(to / found.shard.name))

    async def here(upkeep: Upkeep) -> dict[str, Any]:
        place = await upkeep.archived(moved, who())
        return {"first": moved.first, "last": moved.last, "to": moved.to, "record": place_said(place)}

    asked = {"shard": moved.shard, "first": moved.first, "last": moved.last, "sha256": digests, "to": moved.to}
    code = carry_out(arguments, "/v1/audit:archived", asked, here, "records {first} to {last} are in {to}")
    for segment in sealed if code == 0 else ():
        remove(segment, disk)
    return code


def run_retain(arguments: Arguments) -> int:
    """Erases the content of sessions that ended, and were last heard of longer ago than `audit.retain.content`."""
    if settings_of(arguments).audit.retain.content is None:
        return wrong("content is kept until it is erased: audit.retain.content is not set")

    async def here(upkeep: Upkeep) -> dict[str, Any]:
        done = await upkeep.expire(who())
        if done is None:
            return _NOTHING
        return {
            **{"sessions": done.sessions, "keys": done.keys, "blobs": done.blobs},
            "record": place_said(done.position),
        }

    said = "sessions meant: {sessions}, keys deleted: {keys}, blobs removed: {blobs}"
    return carry_out(arguments, "/v1/audit:expire", {}, here, said)
