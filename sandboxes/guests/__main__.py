"""`python -m sandboxes.guests [FOLDER]`: builds the guests ahead of time and says what it does. Never runs one."""

import os
import sys
from pathlib import Path

from sandboxes.guests.build import DEFAULT_FOLDER, ensure, ensure_js
from sandboxes.model import SandboxUnavailable


def _show(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(arguments: list[str]) -> int:
    folder = arguments[0] if arguments else os.environ.get("TOOLGATE_GUESTS", DEFAULT_FOLDER)
    try:
        built = [make(Path(folder), _show) for make in (ensure, ensure_js)]
    except SandboxUnavailable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for guest in built:
        sys.stdout.write(f"{guest.cwasm}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
