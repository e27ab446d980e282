"""What a parked Python instance takes: the memory of this process before and after two more of them. Prints JSON."""

from __future__ import annotations

import json
from pathlib import Path

from sandboxes.guests.build import ensure
from sandboxes.python_guest import PythonGuest

MORE = 2


def private_kib() -> int:
    """Memory that belongs to this process alone, KiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def main() -> None:
    """Makes instances and looks."""
    guest = PythonGuest(str(ensure(Path("~/.cache/toolgate/guests")).cwasm), lambda _name, _args: "")
    kept = [guest.fresh(), guest.fresh()]
    before = private_kib()
    kept += [guest.fresh() for _ in range(MORE)]
    print(json.dumps({"kib": (private_kib() - before) / MORE}))


if __name__ == "__main__":
    main()
