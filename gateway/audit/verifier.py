"""One file for an auditor: what checks a log and what checks a proof, as a zip that Python runs (PEP 441).

The same bytes whenever and wherever it is made of the same sources. It holds no key: that has to come another way.
"""

from __future__ import annotations

import ast
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

_PACKAGE = "gateway/audit"
_MAIN = b'''\
"""`python verify.pyz DIR ...` checks a log, `python verify.pyz proof PROOF ...` a proof; --help says more."""

import sys

from gateway.audit import verify, verify_proof

proof = sys.argv[1:2] == ["proof"]
sys.exit(verify_proof.main(sys.argv[2:]) if proof else verify.main(sys.argv[1:]))
'''


def parts() -> dict[str, bytes]:
    """The sources that are in it, by the name of their file: those two, and what of ours they import."""
    here, found, left = Path(__file__).parent, dict[str, bytes](), ["verify", "verify_proof"]
    while left:
        name = left.pop()
        if f"{name}.py" not in found:
            found[f"{name}.py"] = octets = (here / f"{name}.py").read_bytes()
            imports = [node.module for node in ast.walk(ast.parse(octets)) if isinstance(node, ast.ImportFrom)]
            left += [module.rpartition(".")[2] for module in imports if module and module.startswith("gateway.audit.")]
    return dict(sorted(found.items()))


def bundle() -> bytes:
    """The file. Raises `OSError` when the sources are not there."""
    files = {"__main__.py": _MAIN, "gateway/__init__.py": b"", f"{_PACKAGE}/__init__.py": b""}
    files |= {f"{_PACKAGE}/{name}": octets for name, octets in parts().items()}
    made = BytesIO(b"#!/usr/bin/env python3\n")
    made.seek(0, 2)
    with ZipFile(made, "a", ZIP_STORED) as archive:
        for name, octets in files.items():
            entry = ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, octets)
    return made.getvalue()
