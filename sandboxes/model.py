"""The nouns of a sandbox: what is asked (Job, Limits), what came of it (Exit, Usage), and what can be promised.

Values only. Never starts anything and imports nothing of ours.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

MIB: Final = 1024 * 1024
# Characters of a tool's name and arguments together, in one call from a guest.
ARGS_CAP: Final = 256 * 1024

Status = Literal["ok", "error", "timeout", "limit", "cancelled", "crashed", "unavailable"]

# What `wasm-python` really enforces (sandboxes/pool.py checks a caller's demands against it).
GUARANTEES: Final[frozenset[str]] = frozenset(
    {
        "deterministic",  # clock and random come from the job
        "disk-cap",  # there is no disk
        "inspected-imports",  # the component's imports are read when it is built and again when it is loaded
        "memory-cap",  # on the VM's one linear memory
        "no-filesystem",
        "no-guest-syscalls",
        "no-network",
        "no-secrets-inside",  # the worker's environment is empty
        "output-cap",
        "pid-cap",  # there are no processes
        "readonly-root",  # there is no root
        "wall-kill",
    }
)


class SandboxUnavailable(Exception):
    """No sandbox that keeps what was asked can be had here; the text is a sentence that says why."""


class CallRefused(Exception):
    """Raised by `on_call`: the nested call was refused or failed. The text reaches the guest as a `ToolError`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings of one job. `ValueError` if one lies outside its bounds.

    wall: seconds, over 0 up to 300. memory: bytes of the guest's memory, 32 MiB to 512 MiB (an idle Python takes
    about 16 MiB of it). output: bytes of stdout, stderr and the result together, as UTF-8 and JSON, up to 4 MiB.
    host_calls: calls of tools, 0 to 4096.
    """

    wall: float = 10.0
    memory: int = 128 * MIB
    output: int = MIB
    host_calls: int = 64

    def __post_init__(self) -> None:
        for name, low, high in BOUNDS:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"limit {name} is {getattr(self, name)}, not between {low} and {high}")


BOUNDS: Final[tuple[tuple[str, float, float], ...]] = (
    ("wall", 0.001, 300.0),
    ("memory", 32 * MIB, 512 * MIB),
    ("output", 0, 4 * MIB),
    ("host_calls", 0, 4096),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work for one sandbox.

    `ValueError` for a value that no guest can be given.

    program: Python source, no lone surrogates. input: JSON, the guest's `args`. tools: names the guest may call.
    seed: 0 to 2**64 - 1. now: the guest's clock, Unix seconds. deadline: `time.monotonic()` seconds; the wall limit
    ends there at the latest.
    tenant: a worker never serves two of them.
    """

    program: str
    input: bytes = b"{}"
    tools: frozenset[str] = frozenset()
    seed: int = 0
    now: float = 0.0
    limits: Limits = field(default_factory=Limits)
    call_id: str = ""
    deadline: float | None = None
    tenant: str = ""

    def __post_init__(self) -> None:
        self.program.encode()
        if not 0 <= self.seed < 2**64:
            raise ValueError("seed must be an unsigned 64-bit integer")
        if not 0 <= self.now < 2**40:
            raise ValueError("now must be Unix seconds, not negative")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job took. wall_ms: from claim to answer. sandbox_ms: inside the VM. memory_peak: bytes, None if unknown.

    bytes_out: stdout, stderr and the result. host_calls: those that reached `on_call`.
    """

    wall_ms: float = 0.0
    sandbox_ms: float = 0.0
    memory_peak: int | None = None
    bytes_out: int = 0
    host_calls: int = 0


@dataclass(frozen=True, slots=True)
class Exit:
    """How a job ended.

    status: "limit" names the limit reached in `limit` (memory, output, stack, host_calls). stdout, stderr: text without
    lone surrogates. value: the JSON value the snippet left in `result`: at most 64 deep, integers of 64 bits, finite
    numbers. truncated: output was cut. warm: the VM stood ready when the job came. guarantees: those in force here.
    """

    status: Status
    limit: str | None = None
    stdout: str = ""
    stderr: str = ""
    value: object = None
    truncated: bool = False
    usage: Usage = field(default_factory=Usage)
    sandbox_id: str = ""
    backend: str = "wasm-python"
    warm: bool = False
    guarantees: frozenset[str] = GUARANTEES
