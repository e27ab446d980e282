"""The broker as a hijacked gateway meets it: five verbs, one container, a closed list, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes.allow import Allowed, Refused, is_image
from sandboxes.frames import receive
from sandboxes.spawn import command
from tests.engine import Engine
from tests.sandboxes.containers import PATIENCE, alive, allow_list, folders, ours, root, wait

ID = "sha256:" + "a" * 64
MIB = 1024 * 1024
LIMITS = {"memory": 128 * MIB, "cpu": 1.0, "pids": 32, "disk": 16 * MIB}
NOBODY = 65534


class Talker:
    """A gateway that says whatever it likes to a broker."""

    def __init__(self, channel: socket.socket, pid: int) -> None:
        channel.settimeout(PATIENCE)
        self.channel = channel
        self.pid = pid

    def say(self, message: bytes) -> None:
        self.channel.send(message)

    def hear(self) -> tuple[dict[str, object], list[int]]:
        """One reply, with the descriptors that came along. Raises `EOFError` when the broker hung up."""
        message, descriptors, _, _ = socket.recv_fds(self.channel, 65536, 4)
        if not message:
            raise EOFError
        return json.loads(message), list(descriptors)

    def ask(self, **request: object) -> dict[str, object]:
        self.say(json.dumps({"seq": 1, **request}).encode())
        return self.hear()[0]


@contextlib.contextmanager
def child(terms: object) -> Iterator[Talker]:
    """A broker as a child, with this as its first message; what it answers to that is still to be heard."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        started = subprocess.Popen(
            command("sandboxes.broker", "--child", str(there.fileno())), pass_fds=[there.fileno()], env={}, cwd="/"
        )
    try:
        talker = Talker(here, started.pid)
        talker.say(json.dumps(terms).encode())
        yield talker
    finally:
        here.close()
        started.wait(PATIENCE)


@pytest.fixture
def broker(engine: Engine) -> Iterator[tuple[Talker, str, Engine]]:
    """A ready broker that allows the Python image and small containers, its folder, and its engine."""
    ceilings = {"memory": 256 * MIB, "cpu": 2, "pids": 64, "disk": 64 * MIB, "containers": 2}
    with root() as folder, child(allow_list(engine, folder, ceilings=ceilings)) as talker:
        assert talker.hear()[0] == {"kind": "ready"}
        yield talker, folder, engine


def request(engine: Engine) -> dict[str, object]:
    return {"verb": "create", "image": engine.images["python"], "runtime": "runc", "limits": LIMITS}


HOSTILE: dict[str, dict[str, object]] = {
    "a mount": {"binds": ["/:/host"]},
    "mounts": {"mounts": [{"Type": "bind", "Source": "/", "Target": "/host"}]},
    "volumes": {"volumes": {"/": {"bind": "/host"}}},
    "privileged": {"privileged": True},
    "capabilities": {"cap_add": ["SYS_ADMIN"]},
    "devices": {"devices": ["/dev/mem"]},
    "environment": {"env": {"LD_PRELOAD": "/x.so"}},
    "a command": {"command": ["sh"]},
    "an entry point": {"entrypoint": ["sh"]},
    "a user": {"user": "0:0"},
    "a network": {"network_mode": "host"},
    "namespaces": {"pid_mode": "host", "ipc_mode": "host", "userns_mode": "host"},
    "a profile": {"security_opt": ["seccomp=unconfined"]},
    "labels": {"labels": {"dev.toolgate.lease": "9999999999"}},
    "a name": {"name": "x"},
    "a cgroup": {"cgroup_parent": "/"},
    "the engine's own body": {"HostConfig": {"Privileged": True}},
    "another engine": {"engine": "/run/other.sock"},
    "another list": {"images": [ID]},
    "an image's name": {"image": "toolgate-python"},
    "an image not listed": {"image": ID},
    "an image of another type": {"image": ["x"]},
    "no image": {"image": None},
    "a runtime not listed": {"runtime": "runsc"},
    "a runtime by path": {"runtime": "/bin/sh"},
    "a runtime of another type": {"runtime": {}},
    "limits of another type": {"limits": [1]},
    "a limit too many": {"limits": {**LIMITS, "shm": 1}},
    "a limit too few": {"limits": {"memory": 128 * MIB, "cpu": 1, "pids": 32}},
    "more memory": {"limits": {**LIMITS, "memory": 257 * MIB}},
    "memory without limit": {"limits": {**LIMITS, "memory": -1}},
    "no memory": {"limits": {**LIMITS, "memory": 0}},
    "memory as text": {"limits": {**LIMITS, "memory": "128m,exec"}},
    "half a byte": {"limits": {**LIMITS, "memory": 134217728.5}},
    "a truth for a number": {"limits": {**LIMITS, "pids": True}},
    "more processors": {"limits": {**LIMITS, "cpu": 2.1}},
    "no processor": {"limits": {**LIMITS, "cpu": 0}},
    "endless processes": {"limits": {**LIMITS, "pids": -1}},
    "more processes": {"limits": {**LIMITS, "pids": 65}},
    "more disk": {"limits": {**LIMITS, "disk": 65 * MIB}},
    "disk with options": {"limits": {**LIMITS, "disk": "16m,exec,suid"}},
    "another verb": {"verb": "exec"},
    "no verb": {"verb": None},
    "a verb of another type": {"verb": ["create"]},
    "start of what is not ours": {"verb": "start", "id": "x"},
    "a path for an id": {"verb": "remove", "id": "../../containers/x"},
    "an id of another type": {"verb": "kill", "id": 7},
    "status with something": {"verb": "status", "all": True},
    "a number of another type": {"seq": "1"},
}


def test_the_broker_refuses_whatever_is_not_in_its_template(broker: tuple[Talker, str, Engine]) -> None:
    """Each hostile request is refused with a sentence, makes nothing, and leaves the broker in order."""
    talker, folder, engine = broker
    for what, hostile in HOSTILE.items():
        answer = talker.ask(**{**request(engine), **hostile})
        assert answer.get("error") == "refused", f"{what}: {answer}"
        assert isinstance(answer["text"], str)
    for verb in ("create", "start", "kill", "remove"):
        assert talker.ask(verb=verb)["error"] == "refused"
    assert ours(engine, folder) == []
    assert "ok" in talker.ask(**request(engine))


@pytest.mark.parametrize("message", [b"x", b"[]", b"{}" * 40_000, b'{"seq": 1e999}', b"\xff", b"", b"[" * 60_000])
def test_the_broker_hangs_up_on_what_is_no_request(broker: tuple[Talker, str, Engine], message: bytes) -> None:
    """What is not a JSON object of moderate size ends the conversation, and with it everything made for it."""
    talker, folder, engine = broker
    assert "ok" in talker.ask(**request(engine))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        talker.say(message)
    with pytest.raises((EOFError, ConnectionResetError)):
        talker.hear()
    wait(lambda: not alive(talker.pid))
    assert (ours(engine, folder), folders(folder)) == ([], [])


def test_a_descriptor_from_the_gateway_is_not_taken(broker: tuple[Talker, str, Engine]) -> None:
    """A request may bring descriptors; the broker has none more afterwards."""
    talker, _, _ = broker
    talker.ask(verb="status")
    before = os.listdir(f"/proc/{talker.pid}/fd")
    with open("/dev/null") as file:
        socket.send_fds(talker.channel, [b'{"seq":1,"verb":"nothing"}'], [file.fileno()] * 3)
    assert talker.hear()[0]["error"] == "refused"
    assert len(os.listdir(f"/proc/{talker.pid}/fd")) == len(before)


def test_the_number_of_containers_is_bounded(broker: tuple[Talker, str, Engine]) -> None:
    """Beyond its ceiling the broker makes none; one that was removed counts no more, and ids are used up."""
    talker, _, engine = broker
    first = talker.ask(**request(engine))["ok"]
    assert isinstance(first, dict)
    assert "ok" in talker.ask(**request(engine))
    assert talker.ask(**request(engine))["error"] == "refused"
    assert "ok" in talker.ask(verb="remove", id=first["id"])
    assert talker.ask(verb="remove", id=first["id"])["error"] == "refused"
    assert "ok" in talker.ask(**request(engine))


def test_start_passes_one_connection_once(broker: tuple[Talker, str, Engine]) -> None:
    """The runner's connection comes as a descriptor, its socket is gone from the folder, and there is no second one."""
    talker, folder, engine = broker
    made = talker.ask(**request(engine))["ok"]
    assert isinstance(made, dict)
    assert list(Path(folder).rglob("gate.sock"))
    talker.say(json.dumps({"seq": 2, "verb": "start", "id": made["id"]}).encode())
    answer, descriptors = talker.hear()
    assert (answer, len(descriptors)) == ({"seq": 2, "ok": {}}, 1)
    with socket.socket(fileno=descriptors[0]) as runner:
        runner.settimeout(PATIENCE)
        assert b'"ready"' in receive(runner, 65536)
    assert list(Path(folder).rglob("gate.sock")) == []
    assert talker.ask(verb="start", id=made["id"])["error"] == "refused"


# Comes in through a socket, says something, and stays until it is told to go.
STRANGER = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
one = socket.socket(socket.AF_UNIX)
one.connect(sys.argv[1])
one.send(b"stranger")
print("in", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("user", [0, NOBODY])
def test_only_the_containers_own_process_comes_in(broker: tuple[Talker, str, Engine], user: int) -> None:
    """Whoever connects before the runner does, as another user or as the runner's own, is turned away for it."""
    talker, folder, engine = broker
    os.chmod(folder, 0o711)
    made = talker.ask(**request(engine))["ok"]
    assert isinstance(made, dict)
    (door,) = Path(folder).rglob("gate.sock")
    argv = [sys.executable, "-c", STRANGER, str(door), str(user)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"in\n"
        talker.say(json.dumps({"seq": 2, "verb": "start", "id": made["id"]}).encode())
        answer, descriptors = talker.hear()
        stranger.communicate()
    assert (answer, len(descriptors)) == ({"seq": 2, "ok": {}}, 1)
    with socket.socket(fileno=descriptors[0]) as runner:
        runner.settimeout(PATIENCE)
        assert b'"ready"' in receive(runner, 65536)


def test_the_broker_has_nothing_and_can_gain_nothing(broker: tuple[Talker, str, Engine]) -> None:
    """Its environment is empty, it cannot gain privileges, and it leaves no core."""
    talker, _, _ = broker
    status = Path(f"/proc/{talker.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert Path(f"/proc/{talker.pid}/environ").read_bytes().strip(b"\0") == b""
    assert "Max core file size        0                    0" in Path(f"/proc/{talker.pid}/limits").read_text()


def test_a_container_carries_the_brokers_labels(broker: tuple[Talker, str, Engine]) -> None:
    """Owner, instance and lease are the broker's own words; the settings are the template's."""
    talker, folder, engine = broker
    assert "ok" in talker.ask(**request(engine))
    (name,) = ours(engine, folder)
    with contextlib.closing(engine.client()) as client:
        found = client.api.inspect_container(name)
    labels, host = found["Config"]["Labels"], found["HostConfig"]
    assert {one for one in labels if one.startswith("dev.toolgate.")} == {
        "dev.toolgate.owner",
        "dev.toolgate.broker",
        "dev.toolgate.lease",
    }
    assert [(one["Source"].startswith(folder), one["RW"]) for one in found["Mounts"]] == [(True, False)]
    assert (host["Privileged"], host["ReadonlyRootfs"], host["NetworkMode"], host["IpcMode"]) == (
        False,
        True,
        "none",
        "none",
    )
    assert (host["CapDrop"], host["CapAdd"], host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (
        ["ALL"],
        None,
        LIMITS["memory"],
        LIMITS["memory"],
        40,
    )


BAD_TERMS = {
    "no images": {"engine": "/e", "root": "/r"},
    "a key too many": {"engine": "/e", "root": "/r", "images": [ID], "mounts": []},
    "an image's name": {"engine": "/e", "root": "/r", "images": ["python"]},
    "an engine over the network": {"engine": "tcp://127.0.0.1:2375", "root": "/r", "images": [ID]},
    "a runtime by path": {"engine": "/e", "root": "/r", "images": [ID], "runtimes": ["/bin/sh"]},
    "a relative root": {"engine": "/e", "root": "r", "images": [ID]},
    "a long root": {"engine": "/e", "root": "/" + "r" * 70, "images": [ID]},
    "an unknown ceiling": {"engine": "/e", "root": "/r", "images": [ID], "ceilings": {"wall": 1}},
    "a ceiling over the highest": {"engine": "/e", "root": "/r", "images": [ID], "ceilings": {"memory": 1 << 40}},
    "a ceiling as text": {"engine": "/e", "root": "/r", "images": [ID], "ceilings": {"pids": "64"}},
}


@pytest.mark.parametrize("terms", BAD_TERMS.values(), ids=BAD_TERMS)
def test_an_allow_list_of_another_shape_is_refused(terms: dict[str, object]) -> None:
    """A list that says too much, too little or something else is no list."""
    with pytest.raises(Refused):
        Allowed.read(terms)


def test_an_image_is_named_by_its_id() -> None:
    """Only sha256 and 64 lower-case digits name an image."""
    bad = ["", "python", ID[:-1], ID + "a", ID.upper(), "sha512:" + "a" * 64, ID + "\n", " " + ID]
    assert (is_image(ID), [one for one in bad if is_image(one)]) == (True, [])


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A root that others may write to is not trusted, and the sentence reaches the gateway."""
    tmp_path.chmod(0o777)
    with root() as folder:
        os.chmod(folder, 0o777)
        with child({"engine": "/e", "root": folder, "images": [ID]}) as talker:
            answer, _ = talker.hear()
    assert answer == {"kind": "failed", "text": f"{folder} is not a folder that belongs to the broker's user alone"}
