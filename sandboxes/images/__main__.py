"""`python -m sandboxes.images [BASE]`: builds the runner images and prints their ids. Never runs one."""

import os
import sys
from pathlib import Path

from sandboxes.guests.build import DEFAULT_FOLDER
from sandboxes.images.build import CannotBuild, ensure


def _show(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(arguments: list[str]) -> int:
    folder = Path(os.environ.get("TOOLGATE_GUESTS", DEFAULT_FOLDER))
    try:
        ids = ensure(folder, base=arguments[0] if arguments else os.environ.get("BASE", ""), progress=_show)
    except CannotBuild as error:
        _show(str(error))
        return 1
    for recipe, image in ids.items():
        sys.stdout.write(f"{recipe} {image}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
