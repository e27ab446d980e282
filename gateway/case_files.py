"""A file of cases with what it names, opened to be run through a whole gateway in memory. It runs nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from gateway.folders import read
from gateway.loading import OFFERS, Loaded, load_files
from gateway.policy.cases import CaseFile, load_cases
from gateway.specs.sandboxed import Offer
from gateway.specs.yaml import SpecError, SpecErrors
from gateway.tool import Json


def open_cases(file: Path, offers: Mapping[str, Offer] = OFFERS) -> tuple[CaseFile, Loaded]:
    """The cases and what they are about: documents inside the file, or files or folders named from where it stands.

    Raises `SpecErrors`.
    """
    cases = load_cases(file.read_bytes(), str(file))
    return cases, load_files(_files(file, cases.specs), _files(file, cases.policies), offers)


def _files(file: Path, entries: Sequence[str | dict[str, Json]]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, str):
            found[f"{file.name}#{number}.yaml"] = orjson.dumps(entry)
            continue
        path = file.parent / entry
        if path.is_dir():
            found |= read(path)
        elif path.is_file():
            found[str(path)] = path.read_bytes()
        else:
            raise SpecErrors([SpecError(str(file), 1, 1, f"there is no file or folder {entry!r} from here")])
    return found
