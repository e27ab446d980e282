"""`toolgate doctor`: what is off, old, exposed or missing here, and what each sandbox backend really gives."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from argparse import ArgumentParser
from contextlib import AsyncExitStack

from gateway import doctor
from gateway.backends import make_backend
from gateway.cli.common import Arguments, Verbs, say, settings_of
from gateway.doctor_identity import identity
from gateway.doctor_store import store
from gateway.loading import OFFERS
from gateway.settings import Settings
from sandboxes.model import SandboxUnavailable


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    verb = verbs.add_parser(
        "doctor", parents=[common], help="what is off, old, exposed or missing here; what each sandbox really gives"
    )
    verb.set_defaults(run=run)


def run(arguments: Arguments) -> int:
    """Prints the table of guarantees and every check. Exit 1 when something is to be changed."""
    settings = settings_of(arguments)
    found = asyncio.run(_look(settings))
    backends = (check for each in found for check in doctor.backend(each))
    shared = asyncio.run(store(settings))
    checks = [*doctor.host(settings), *identity(settings, time.time()), *shared, *backends]
    ok = all(check.state != "bad" for check in checks)
    told = {
        "ok": ok,
        "backends": {each.name: _told(each) for each in found},
        "checks": [dataclasses.asdict(check) for check in checks],
    }
    lines = [*doctor.table(found), "", *(f"{each.state:<5} {each.area}: {each.text}" for each in checks)]
    say(arguments, told, "\n".join(lines))
    return 0 if ok else 1


def _told(found: doctor.Found) -> dict[str, object]:
    return {
        "missing": found.missing,
        "guarantees": sorted(found.guarantees),
        "walls": dict(found.walls),
        "notes": list(found.notes),
    }


async def _look(settings: Settings) -> list[doctor.Found]:
    """Each backend, started for the while and asked."""
    found = []
    for name in OFFERS:
        async with AsyncExitStack() as stack:
            try:
                backend = make_backend(name, settings.sandboxes, (), lambda line: print(line, file=sys.stderr))
                stack.push_async_callback(backend.close)
                await backend.start()
                found.append(await doctor.look(backend))
            except SandboxUnavailable as error:
                found.append(doctor.Found(name, str(error)))
    return found
