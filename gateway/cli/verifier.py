"""`toolgate audit verifier`: writes the one file that an auditor needs, besides Python and a key. It reads no log."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from hashlib import sha256
from pathlib import Path

from gateway.audit.text import printable
from gateway.audit.verifier import bundle
from gateway.cli.common import Arguments, Verbs, say


def add(what: Verbs, common: ArgumentParser) -> None:
    """Adds it to the verbs of `audit`."""
    verb = what.add_parser("verifier", parents=[common], help="one file that checks logs and proofs with Python alone")
    verb.add_argument("-o", "--output", type=Path, default=Path("verify.pyz"), help="file to write (verify.pyz)")
    verb.set_defaults(run=run_verifier)


def run_verifier(arguments: Arguments) -> int:
    """Writes the file, and says what it is to be known by."""
    octets = bundle()
    try:
        fd = os.open(arguments.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)
        with os.fdopen(fd, "wb") as file:
            file.write(octets)
    except OSError as error:
        print(f"toolgate: {printable(str(error))}", file=sys.stderr)
        return 2
    digest = sha256(octets).hexdigest()
    said = {"file": str(arguments.output), "sha256": digest, "bytes": len(octets)}
    say(arguments, said, f"{arguments.output}: {len(octets)} bytes, SHA-256 {digest}")
    return 0
