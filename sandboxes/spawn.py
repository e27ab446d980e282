"""How our own programs are started: this interpreter, isolated, with our code and nothing of the caller's environment.

Never uses fork without exec, so a child holds no memory of its parent.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

# About a tenth of the processor time of a process that wants it as much.
NICE: Final = 10
FIRST_TO_GO: Final = 900
ROOT: Final = str(Path(__file__).resolve().parent.parent)
BOOT: Final = (
    "import runpy, sys; root, module = sys.argv[1:3]; del sys.argv[1:3]; sys.path.insert(0, root);"
    " runpy.run_module(module, run_name='__main__')"
)


def command(module: str, *arguments: str) -> list[str]:
    """The argv that runs `module` (such as "sandboxes.worker") as a program."""
    return [sys.executable, "-I", "-c", BOOT, ROOT, module, *arguments]


def step_back(pid: int) -> None:
    """Makes a child of ours the first to go when memory is short, and the last to get a processor.

    Whoever waits for the parent must not notice what its children run. Where the kernel groups processes by session, it
    is the group's nice value that counts (`sched(7)`, autogroup). What the kernel refuses is left as it is.
    """
    for name, value in (("oom_score_adj", FIRST_TO_GO), ("autogroup", NICE)):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "w") as file:
            file.write(str(value))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
