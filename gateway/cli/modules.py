"""`toolgate modules`: the operator's own WebAssembly programs, registered by digest in the folder of guests."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from gateway.audit.text import printable
from gateway.cli.common import Arguments, Verbs, say, settings_of
from sandboxes.model import SandboxUnavailable
from sandboxes.modules import Module, ModuleRefused, every, register


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    modules = verbs.add_parser("modules", help="WebAssembly modules: add, list").add_subparsers(
        dest="what", required=True
    )
    one = modules.add_parser("add", parents=[common], help="register a module or component; prints its digest")
    one.add_argument("file", type=Path, metavar="FILE", help="a .wasm file")
    one.set_defaults(run=add_module)
    modules.add_parser("list", parents=[common], help="all registered ones").set_defaults(run=list_modules)


def add_module(arguments: Arguments) -> int:
    """Inspects, compiles and keeps a program."""
    try:
        module = register(_folder(arguments), arguments.file, lambda line: print(line, file=sys.stderr))
    except (ModuleRefused, SandboxUnavailable) as error:
        return _refused(arguments, str(error))
    say(arguments, _row(module), _line(module))
    return 0


def list_modules(arguments: Arguments) -> int:
    """All programs that were registered and are still what they were."""
    try:
        found = every(_folder(arguments))
    except SandboxUnavailable as error:
        return _refused(arguments, str(error))
    say(arguments, [_row(each) for each in found], "\n".join(map(_line, found)) or "no modules")
    return 0


def _folder(arguments: Arguments) -> Path:
    return settings_of(arguments).sandboxes.guests


def _refused(arguments: Arguments, why: str) -> int:
    if arguments.json:
        say(arguments, {"error": why}, "")
    else:
        print(f"toolgate: {printable(why)}", file=sys.stderr)
    return 1


def _line(module: Module) -> str:
    ready = "" if module.cwasm is not None else "  not compiled for this machine: add it again"
    asks = ", ".join(module.imports) or "nothing"
    return f"{module.digest}  {module.kind}  {module.size} bytes  imports {asks}{ready}"


def _row(module: Module) -> dict[str, object]:
    return {
        "digest": module.digest,
        "kind": module.kind,
        "size": module.size,
        "imports": list(module.imports),
        "compiled": module.cwasm is not None,
    }
