"""The command line: parses, calls, prints. It decides nothing itself; exit 0 ok, 1 a finding, 2 usage."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway import __version__
from gateway.cli import (
    approvals,
    audit,
    call,
    check,
    connections,
    doctor,
    explain,
    identity,
    modules,
    revoke,
    secrets,
    serve,
    simulate,
    suggest,
    test,
)
from gateway.home import BadHome
from gateway.settings import BadSettings

_PARTS = (
    *(serve, call, check, test, doctor, explain, simulate, suggest, audit, identity, revoke, secrets, connections),
    modules,
    approvals,
)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    common.add_argument("--config", type=Path, help="settings file (default ./toolgate.yaml when there is one)")
    common.add_argument("--home", type=Path, help="folder of keys, state and audit log (default .toolgate)")
    top = argparse.ArgumentParser("toolgate", description="A tool-execution gateway for AI agents.")
    top.add_argument("--version", action="version", version=f"toolgate {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for part in _PARTS:
        part.add(verbs, common)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; gives its exit code."""
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        return code
    except BadSettings as error:
        for finding in error.findings:
            print(f"toolgate: {finding}", file=sys.stderr)
        return 2
    except BadHome as error:
        print(f"toolgate: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output went away, which is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
