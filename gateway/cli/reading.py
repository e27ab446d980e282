"""Who reads content with the home's own keys puts that on record first; and where that cannot be, says so and reads.

It decides about nobody: whoever has the keys of a home can read it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from gateway.audit.readings import note_reading
from gateway.audit.recover import TamperedLog
from gateway.audit.text import printable
from gateway.tool import Json


def who() -> dict[str, Json]:
    """Whoever runs this command, as it stands on record."""
    return {"authn": "local", "uid": os.getuid()}


def on_record(home: Path, verb: str, asked: Mapping[str, Json], count: int | None = None) -> None:
    """Puts a reading on record, before what was read is shown: by which command, what was asked for, how many records.

    `count` is `None` where that is not known before: of what is printed while it is read.
    """
    said: dict[str, Json] = {"who": who(), "verb": verb}
    said["filter"] = {name: value for name, value in asked.items() if value is not None}
    if count is not None:
        said["count"] = count
    try:
        note_reading(home, said)
    except (TamperedLog, OSError, ValueError) as error:
        print(f"toolgate: that this was read is not on record: {printable(str(error))}", file=sys.stderr)
