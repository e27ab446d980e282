"""`toolgate audit prove` and `audit diff`: proofs for those who do not have the log.

They take no lock that a gateway knows. With `--reveal` the keys that are handed out are put on record first.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import ArgumentParser
from base64 import b64encode
from pathlib import Path
from typing import Any

from gateway.audit.archive import not_found
from gateway.audit.compare import Difference, compare
from gateway.audit.prove import NotSigned, Proof, Unprovable, carried, proof_file, prove_call, read_key, trusted
from gateway.audit.text import printable
from gateway.cli.common import Arguments, Verbs, home_of, say, settings_of
from gateway.cli.reading import on_record

_PATIENCE, _AGAIN = 3.0, 0.25  # seconds: a checkpoint is signed each second of activity


def add(what: Verbs, common: ArgumentParser) -> None:
    """Adds both to the verbs of `audit`."""
    prove = what.add_parser("prove", parents=[common], help="a file that proves the records of a call to an outsider")
    prove.add_argument("call_id")
    prove.add_argument("-o", "--output", type=Path, help="file to write (default: print it)")
    prove.add_argument("--reveal", action="store_true", help="with the key of each record's content, and of no other")
    prove.set_defaults(run=run_prove)
    diff = what.add_parser("diff", parents=[common], help="whether the log only grew between two checkpoints")
    diff.add_argument("head_a", type=Path, help="a checkpoint of a shard")
    diff.add_argument("head_b", type=Path, nargs="?", help="another one (default: the newest in the log)")
    diff.add_argument("--key", type=Path, help="public key kept elsewhere")
    diff.set_defaults(run=run_diff)


def run_prove(arguments: Arguments) -> int:
    """Writes the proof of every record of a call. Exit 1 when there is no such call, or the log does not bear it."""
    home = home_of(arguments)
    try:
        proofs = _proofs(home.audit, arguments.call_id)
        if not proofs:
            print(printable(not_found(home.path, arguments.call_id)), file=sys.stderr)
            return 1
        told = proof_file(proofs, read_key(home.audit), home.path if arguments.reveal else None)
        told |= carried(home.audit)
    except (Unprovable, NotSigned, OSError, ValueError) as why:
        print(f"toolgate: {printable(str(why))}", file=sys.stderr)
        return 1
    entries: Any = told["records"]
    if revealed := sum("content_key" in entry for entry in entries):
        on_record(home.path, "audit prove --reveal", {"call": arguments.call_id}, revealed)
    if arguments.output is None:
        print(json.dumps(told, indent=2))
        return 0
    try:
        _write(arguments.output, json.dumps(told, indent=2))
    except OSError as error:
        print(f"toolgate: {printable(str(error))}", file=sys.stderr)
        return 2
    said = [_entry(entry, proof) for entry, proof in zip(entries, proofs, strict=True)]
    say(arguments, said, "\n".join(map(_line, said)))
    return 0


def _proofs(audit: Path, call_id: str) -> list[Proof]:
    """Waits a little for the checkpoint over a call that has just ended."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return prove_call(audit, call_id)
        except NotSigned:
            if time.monotonic() > until:
                raise
            time.sleep(_AGAIN)


def _write(path: Path, text: str) -> None:
    # Only for its owner: with --reveal it opens content. Who else gets it is the operator's to say.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)  # it may have been there before
        file.write(f"{text}\n")


def _entry(entry: dict[str, Any], proof: Proof) -> dict[str, Any]:
    told = {"shard": proof.shard, "seq": proof.seq, "type": json.loads(proof.line)["type"], "size": proof.head.size}
    return told | {"revealed": "content_key" in entry, "unrevealed": entry.get("unrevealed")}


def _line(said: dict[str, Any]) -> str:
    told = f"{said['shard']}:{said['seq']} {said['type']} proved in a tree of {said['size']}"
    if said["unrevealed"] is not None:
        return f"{told}, content not revealed: {said['unrevealed']}"
    return f"{told}, content revealed" if said["revealed"] else told


def run_diff(arguments: Arguments) -> int:
    """Compares two checkpoints over the log. Exit 1 when it did not only grow, 2 when one is none of this log."""
    audit = settings_of(arguments).home / "audit"
    try:
        key = arguments.key.read_text(encoding="ascii") if arguments.key else read_key(audit)
        heads = [path.read_text(encoding="utf-8") for path in (arguments.head_a, arguments.head_b) if path]
        found = compare(audit, heads[0], heads[1] if len(heads) > 1 else None, trusted(audit, key))
    except (Unprovable, OSError, ValueError) as error:
        print(f"unreadable: {printable(str(error))}", file=sys.stderr)
        return 2
    if found.fault is not None:
        say(arguments, _told(found), f"FAIL shard={found.shard} size={found.size} reason={found.fault}")
        return 1
    grown = f"ok shard={found.shard} from={found.old.size} to={found.new.size}: {found.types.total()} records appended"
    counts = [f"{count:>9} {type_}" for type_, count in sorted(found.types.items())]
    say(arguments, _told(found) | {"key": key.strip(), **carried(audit)}, "\n".join([grown, *counts]))
    return 0


def _told(found: Difference) -> dict[str, Any]:
    """As JSON; when they agree that is a proof file too, whose two checkpoints anybody can check."""
    ends = {"v": 1, "ok": found.fault is None, "shard": found.shard, "from": found.old.size, "to": found.new.size}
    if found.fault is not None:
        return ends | {"size": found.size, "fault": found.fault}
    path = [b64encode(octets).decode() for octets in found.path]
    return ends | {"types": found.types, "checkpoints": [found.old.note, found.new.note], "consistency": path}
