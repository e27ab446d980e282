"""The nouns of a sandbox: what is asked (Job, Limits), what came of it (Exit, Usage), and what can be promised.

Values and one Protocol only. Never starts anything and imports nothing of ours.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, Protocol

MIB: Final = 1024 * 1024
# Characters of a tool's name and arguments together, in one call from a guest.
ARGS_CAP: Final = 256 * 1024

Status = Literal["ok", "error", "timeout", "limit", "cancelled", "crashed", "unavailable"]

# Every promise a backend can make. What one keeps on this host it says itself (`Backend.guarantees`), after looking.
GUARANTEES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cpu-cap": "no more processor time per second than its share",
        "deterministic": "clock and random numbers come from the job",
        "disk-cap": "bytes written are bounded",
        "egress-allowlist": "what goes out goes through the gateway, call by call",
        "inspected-imports": "what the program can ask of the host was read from it before it ran",
        "memory-cap": "memory is bounded",
        "no-filesystem": "there are no files but the job's own",
        "no-guest-syscalls": "the program cannot make a system call",
        "no-network": "there is no network",
        "no-secrets-inside": "nothing of the gateway's is inside: empty environment, no descriptor, no credential",
        "no-shared-kernel": "the program does not run on the host's kernel",
        "output-cap": "output is bounded, and counted outside",
        "pid-cap": "processes and threads are bounded",
        "readonly-root": "nothing outside the job's scratch space can be written",
        "wall-kill": "it ends at its deadline, whatever it does",
    }
)
MAX_FILES: Final = 32
MAX_FILE_NAME: Final = 100
_LETTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_JOINERS: Final = {ord("."): None, ord("-"): None}

OnCall = Callable[[str, bytes], Awaitable[bytes]]


def is_file_name(name: str) -> bool:
    """Whether a job's file may have this name: 1 to 100 of A-Z a-z 0-9 . _ - and no . or - at the beginning."""
    return 0 < len(name) <= MAX_FILE_NAME and name[0] in _LETTERS and _LETTERS.issuperset(name.translate(_JOINERS))


class SandboxUnavailable(Exception):
    """No sandbox that keeps what was asked can be had here; the text is a sentence that says why."""


class CallRefused(Exception):
    """Raised by `on_call`: the nested call was refused or failed. The text reaches the guest as a `ToolError`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings of one job. `ValueError` if one lies outside its bounds.

    wall: seconds, over 0 up to 300. memory: bytes, 16 MiB to 4 GiB; a WASM guest has at most 512 MiB (an idle Python
    takes about 16 MiB of it). output: bytes of stdout, stderr and the result together, as UTF-8 and JSON, up to 4 MiB.
    host_calls: calls of tools, 0 to 4096. cpu: processors, a fraction allowed. pids: processes and threads. disk: bytes
    of scratch space. files_out: bytes of files given back, 0 for none.
    """

    wall: float = 10.0
    memory: int = 128 * MIB
    output: int = MIB
    host_calls: int = 64
    cpu: float = 1.0
    pids: int = 32
    disk: int = 16 * MIB
    files_out: int = 0

    def __post_init__(self) -> None:
        for name, low, high in BOUNDS:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"limit {name} is {getattr(self, name)}, not between {low} and {high}")


BOUNDS: Final[tuple[tuple[str, float, float], ...]] = (
    ("wall", 0.001, 300.0),
    ("memory", 16 * MIB, 4096 * MIB),
    ("output", 0, 4 * MIB),
    ("host_calls", 0, 4096),
    ("cpu", 0.05, 64),
    ("pids", 4, 1024),
    ("disk", 1 * MIB, 1024 * MIB),
    ("files_out", 0, 16 * MIB),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work for one sandbox: bytes, texts and digests, never a path of this machine.

    `ValueError` for a value that no guest can be given.

    program: source text for a backend with an interpreter, no lone surrogates. module: `sha256:…` of a registered
    module (`wasm`). image: `sha256:…`, the id of an image (`docker`); command: what runs there, with the path of the
    program as its last argument; empty for Python with `args`, `result` and `call`. input: JSON, the guest's `args`.
    files: name → bytes, in the working folder at the start. tools: names the guest may call. seed: 0 to 2**64 - 1.
    now: the guest's clock, Unix seconds. deadline: `time.monotonic()` seconds; the wall limit ends there at the latest.
    require: guarantees without which it must not run. tenant: a worker never serves two of them. depth: how many other
    jobs wait for this one, each in a call of the next.
    """

    program: str = ""
    input: bytes = b"{}"
    tools: frozenset[str] = frozenset()
    seed: int = 0
    now: float = 0.0
    limits: Limits = field(default_factory=Limits)
    call_id: str = ""
    deadline: float | None = None
    tenant: str = ""
    module: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    require: frozenset[str] = frozenset()
    depth: int = 0

    def __post_init__(self) -> None:
        self.program.encode()
        if not 0 <= self.seed < 2**64:
            raise ValueError("seed must be an unsigned 64-bit integer")
        if not 0 <= self.now < 2**40:
            raise ValueError("now must be Unix seconds, not negative")
        if len(self.files) > MAX_FILES:
            raise ValueError(f"at most {MAX_FILES} files")
        if not all(map(is_file_name, self.files)):
            raise ValueError("a file's name is 1 to 100 of A-Z a-z 0-9 . _ - and does not begin with . or -")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job took. wall_ms: from claim to answer. sandbox_ms: inside the VM. memory_peak: bytes, None if unknown.

    bytes_out: stdout, stderr and the result. host_calls: those that reached `on_call`. cpu_ms: None if unknown.
    """

    wall_ms: float = 0.0
    sandbox_ms: float = 0.0
    memory_peak: int | None = None
    bytes_out: int = 0
    host_calls: int = 0
    cpu_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How a job ended.

    status: "limit" names the limit reached in `limit` (memory, output, stack, host_calls, pids, disk, files_out).
    stdout, stderr: text without lone surrogates. value: the JSON value the snippet left in `result`: at most 64 deep,
    integers of 64 bits, finite numbers. truncated: output was cut. warm: the sandbox stood ready when the job came.
    guarantees: those in force here. files: name → bytes that the job left in its working folder, new or changed.
    image: `sha256:…` of what the program ran in: the guest, the module or the container image; engine: by what, with
    its version. Where both are the same and `deterministic` is in force, the same job ends the same.
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
    guarantees: frozenset[str] = frozenset()
    files: Mapping[str, bytes] = field(default_factory=dict)
    image: str = ""
    engine: str = ""


class Backend(Protocol):
    """One kind of sandbox on this host. `start` raises `SandboxUnavailable`; `close` leaves nothing behind.

    `guarantees` holds after `start`: what was found here, not what is hoped. `run` never raises for what the job does;
    what `on_call` raises, other than `CallRefused`, comes through; cancelling the awaiting task kills the sandbox. A
    job whose `require` the sandbox it would get does not give ends as "unavailable" before anything runs.
    """

    @property
    def name(self) -> str: ...
    @property
    def guarantees(self) -> frozenset[str]: ...
    async def start(self) -> None: ...
    async def run(self, job: Job, on_call: OnCall = ...) -> Exit: ...
    async def close(self) -> None: ...
