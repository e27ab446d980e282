"""How our own programs are started: this interpreter, isolated, with our code and nothing of the caller's environment.

Never uses fork without exec, so a child holds no memory of its parent.
"""

import sys
from pathlib import Path
from typing import Final

ROOT: Final = str(Path(__file__).resolve().parent.parent)
BOOT: Final = (
    "import runpy, sys; root, module = sys.argv[1:3]; del sys.argv[1:3]; sys.path.insert(0, root);"
    " runpy.run_module(module, run_name='__main__')"
)


def command(module: str, *arguments: str) -> list[str]:
    """The argv that runs `module` (such as "sandboxes.worker") as a program."""
    return [sys.executable, "-I", "-c", BOOT, ROOT, module, *arguments]
