"""The second wall as the kernel sees it, and the list of system calls decided as the kernel decides it."""

import errno
import os
import struct
from pathlib import Path

import pytest

from sandboxes.confine import FIRST_USER, WALLS
from sandboxes.filter import EXEC_REFUSED, NUMBERS, SERVING, program
from sandboxes.model import MIB, Job, Limits
from sandboxes.pool import WasmPool

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED, KILLED, DENIED, ABSENT = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
# By machine: open, openat or its like; socket; connect; execve; kill; ptrace; clone; process_vm_readv; io_uring_setup.
FORBIDDEN = {
    "x86_64": (2, 257, 437, 41, 42, 59, 322, 62, 200, 234, 101, 56, 57, 435, 310, 311, 425, 426, 16, 157, 46, 47, 1, 0),
    "aarch64": (
        56,
        437,
        198,
        203,
        221,
        281,
        129,
        130,
        131,
        117,
        220,
        435,
        270,
        271,
        425,
        426,
        29,
        167,
        211,
        212,
        64,
        63,
    ),
}


def decide(machine: str, number: int, arch: int, protection: int = 0) -> int:
    """What the program returns for a system call: classic BPF, the five instructions it uses."""
    seen = struct.pack("<IIQ6Q", number, arch, 0, 0, 0, protection, 0, 0, 0)
    steps = list(struct.iter_unpack("HBBI", program(machine)))
    at, value = 0, 0
    while True:
        code, yes, no, operand = steps[at]
        match code:
            case 0x20:
                (value,) = struct.unpack_from("<I", seen, operand)
                at += 1
            case 0x15:
                at += 1 + (yes if value == operand else no)
            case 0x45:
                at += 1 + (yes if value & operand else no)
            case _:
                return int(operand)


@pytest.mark.parametrize("machine", NUMBERS)
def test_what_serving_takes_is_allowed(machine):
    """Every call on the list is allowed, and mapping memory is as long as it is not executable."""
    numbers = NUMBERS[machine]
    for name in SERVING:
        if name in numbers:
            assert decide(machine, numbers[name], ARCH[machine]) == ALLOWED
    for name in EXEC_REFUSED:
        assert [decide(machine, numbers[name], ARCH[machine], bits) for bits in (0, 3, 4, 7, 1 << 32)] == [
            ALLOWED,
            ALLOWED,
            DENIED,
            DENIED,
            ALLOWED,
        ]


@pytest.mark.parametrize("machine", NUMBERS)
def test_what_is_not_on_the_list_is_denied(machine):
    """Files, sockets, programs, signals and other processes are denied, and so is every number nobody knows yet."""
    for number in (*FORBIDDEN[machine], 446, 500, 1000, 0x40000000 | 45, 2**32 - 1):
        assert decide(machine, number, ARCH[machine]) == DENIED
    assert decide(machine, NUMBERS[machine]["memfd_create"], ARCH[machine]) == ABSENT
    listed = {NUMBERS[machine][name] for name in (*SERVING, *EXEC_REFUSED) if name in NUMBERS[machine]}
    assert {n for n in range(600) if decide(machine, n, ARCH[machine]) == ALLOWED} == listed


@pytest.mark.parametrize("machine", NUMBERS)
def test_a_call_of_another_architecture_kills(machine):
    """The 32-bit calls of the same processor have other numbers, so none of them is looked up in this list."""
    for arch in (0x40000003, 0x40000028, 0):
        assert decide(machine, NUMBERS[machine]["recvfrom"], arch) == KILLED


def test_an_unknown_machine_has_no_filter():
    """For a machine whose numbers are not known there is no filter, rather than a wrong one."""
    with pytest.raises(ValueError, match="riscv64"):
        program("riscv64")


def test_every_wall_is_documented():
    """The table in the documentation holds the walls, each with its sentence, and no other."""
    lines = (Path(__file__).parents[2] / "docs/sandboxes.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| `") and line.split("`")[1] in WALLS]
    assert rows == [f"| `{wall}` | {sentence} |" for wall, sentence in WALLS.items()]


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_the_walls_that_are_claimed_stand(play):
    """What a pool says of its workers' walls is what the kernel says of the process."""

    async def scenario(pool: WasmPool) -> None:
        (pid,) = pool.pids
        walls = pool.walls
        status = status_of(pid)
        assert walls.keys() == WALLS.keys()
        assert walls["no-new-privileges"]
        assert walls["dies-with-parent"]
        assert walls["seccomp"] == (status["Seccomp"] == ["2"])
        assert walls["capabilities"] == (int(status["CapEff"][0], 16) == 0)
        if os.getuid() == 0 and walls["user"]:
            assert set(status["Uid"]) == {str(FIRST_USER + pid)} == set(status["Gid"])
        for kind in ("net", "ipc", "uts"):
            own, ours = (os.readlink(f"/proc/{one}/ns/{kind}") for one in (pid, "self"))
            assert walls["namespaces"] == (own != ours)

    play(scenario, spares=0)


def test_a_worker_is_the_first_to_go(play):
    """When memory runs out the kernel takes a worker before the process that started it."""

    async def scenario(pool: WasmPool) -> None:
        (pid,) = pool.pids
        assert score_of(pid) == 900 >= score_of(os.getpid())

    play(scenario, spares=0)


def test_two_workers_are_two_users(play):
    """No two workers run as the same user, where a worker can have its own."""

    async def scenario(pool: WasmPool) -> None:
        while len(pool.pids) < 2:
            await pool.run(Job("1"))
        owners = [status_of(pid)["Uid"][0] for pid in pool.pids]
        assert len(set(owners)) == len(owners) or os.getuid() != 0

    play(scenario)


def test_large_jobs_and_answers_fit_between_the_walls(play):
    """The bound on address space leaves room for the largest guest, a long program, long arguments and long output."""

    async def scenario(pool: WasmPool) -> None:
        (pid,) = pool.pids
        large = Limits(memory=512 * MIB, output=4 * MIB)
        for _ in range(2):
            done = await pool.run(Job("x = bytearray(300 << 20); print('x' * 3_000_000)", limits=large))
            assert (done.status, len(done.stdout)) == ("ok", 3_000_001), done.stderr
            done = await pool.run(Job("result = len(args)", b'"' + b"x" * 20_000_000 + b'"', limits=large))
            assert (done.status, done.value) == ("ok", 20_000_000), done.stderr
        assert pool.pids == {pid}

    play(scenario, spares=0)
