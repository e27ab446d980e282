"""How our own programs are started: this interpreter, isolated, with our code and nothing of the caller's environment.

Never uses fork without exec, so a child holds no memory of its parent.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

FIRST_TO_GO: Final = 900
ROOT: Final = str(Path(__file__).resolve().parent.parent)
BOOT: Final = (
    "import runpy, sys; root, module = sys.argv[1:3]; del sys.argv[1:3]; sys.path.insert(0, root);"
    " runpy.run_module(module, run_name='__main__')"
)


def command(module: str, *arguments: str) -> list[str]:
    """The argv that runs `module` (such as "sandboxes.worker") as a program."""
    return [sys.executable, "-I", "-c", BOOT, ROOT, module, *arguments]


def first_to_go(pid: int) -> None:
    """When memory is short, this child of ours ends before we do."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write(str(FIRST_TO_GO))


def set_nice(pid: int, nice: int) -> bool:
    """How much of a processor a child of ours, the leader of its session, gets beside others: 0 as much, 10 a tenth.

    Where the kernel groups processes by session, it is the group's value that counts (`sched(7)`, autogroup). False
    when the kernel refused: without privileges a value can only be raised.
    """
    try:
        os.setpriority(os.PRIO_PGRP, pid, nice)
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/autogroup", "w") as file:
            file.write(str(nice))
    except OSError:
        return False
    return True
