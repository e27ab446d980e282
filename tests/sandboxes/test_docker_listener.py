"""A broker that runs by itself: who may come in, how many, and that none reaches what is another's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxes.broker import GATEWAYS
from sandboxes.docker import Docker
from sandboxes.spawn import command
from tests.engine import Engine
from tests.sandboxes.containers import PATIENCE, allow_list, ours, play, root, run, until, wait, write
from tests.sandboxes.test_docker_broker import ID, NOBODY, Talker, request


@contextlib.contextmanager
def listening(path: str, allow: Path, peer: int) -> Iterator[subprocess.Popen[bytes]]:
    """A broker that runs by itself."""
    argv = command("sandboxes.broker", "--listen", path, "--allow", str(allow), "--peer-uid", str(peer))
    started = subprocess.Popen(argv, stderr=subprocess.PIPE, cwd="/")
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.communicate(timeout=PATIENCE)


def reach(path: str) -> Talker:
    wait(lambda: os.path.exists(path))
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wait(lambda: channel.connect_ex(path) == 0)
    return Talker(channel, 0)


def test_a_broker_of_its_own_serves_each_gateway_apart(engine: Engine, tmp_path: Path) -> None:
    """One gateway cannot reach another's containers; those of a gateway that goes, go; the broker stays."""
    with root() as folder, contextlib.ExitStack() as stack:
        path = f"{folder}/broker.sock"
        allow = write(tmp_path / "allow.json", allow_list(engine, f"{folder}/r"))
        stack.enter_context(listening(path, allow, os.geteuid()))
        one, two = reach(path), reach(path)
        made = one.ask(**request(engine))["ok"]
        assert isinstance(made, dict)
        assert two.ask(verb="remove", id=made["id"])["error"] == "refused"
        one.channel.close()
        wait(lambda: ours(engine, f"{folder}/r") == [])
        assert "ok" in two.ask(verb="status")
        two.channel.close()


def test_a_broker_that_is_crowded_serves_those_inside_and_lets_others_in_again(engine: Engine, tmp_path: Path) -> None:
    """There is room for so many conversations: a gateway that opens more takes nothing from those that have theirs."""
    with root() as folder, contextlib.ExitStack() as stack:
        path = f"{folder}/broker.sock"
        allow = write(tmp_path / "allow.json", allow_list(engine, f"{folder}/r"))
        stack.enter_context(listening(path, allow, os.geteuid()))
        first, *crowd = [reach(path) for _ in range(GATEWAYS)]
        assert "ok" in crowd[-1].ask(verb="status")
        with pytest.raises((EOFError, OSError)):
            reach(path).ask(verb="status")
        assert "ok" in first.ask(verb="status")
        for one in crowd:
            one.channel.close()

        def served() -> bool:
            with contextlib.suppress(EOFError, OSError):
                return "ok" in reach(path).ask(verb="status")
            return False

        wait(served)


def test_a_broker_of_its_own_turns_strangers_away(engine: Engine, tmp_path: Path) -> None:
    """Whoever comes as another user than the one named is cut off before a word."""
    with root() as folder, contextlib.ExitStack() as stack:
        path = f"{folder}/broker.sock"
        allow = write(tmp_path / "allow.json", allow_list(engine, f"{folder}/r"))
        stack.enter_context(listening(path, allow, NOBODY + 1))
        talker = reach(path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            talker.say(b'{"seq":1,"verb":"status"}')
        with pytest.raises((EOFError, ConnectionResetError)):
            talker.hear()


@pytest.mark.parametrize(("mode", "owner"), [(0o666, None), (0o620, None), (0o600, NOBODY)])
def test_an_allow_list_others_can_write_is_not_trusted(tmp_path: Path, mode: int, owner: int | None) -> None:
    """The file must be root's or the broker's own and writable by nobody else; else there is no broker."""
    if owner is not None and os.geteuid() != 0:
        pytest.skip("this test needs root: it gives a file away")
    allow = write(tmp_path / "allow.json", {"engine": "/e", "root": str(tmp_path), "images": [ID]}, mode)
    if owner is not None:
        os.chown(allow, owner, owner)
    argv = command("sandboxes.broker", "--listen", str(tmp_path / "b"), "--allow", str(allow), "--peer-uid", "0")
    ended = subprocess.run(argv, stderr=subprocess.PIPE, cwd="/", timeout=PATIENCE, check=False)
    assert (ended.returncode, b"writable by nobody else" in ended.stderr) == (1, True)


def test_a_backend_works_with_a_broker_of_its_own(engine: Engine, tmp_path: Path) -> None:
    """Jobs run in its containers; while it is away they are unavailable, and when it is back they run again."""

    async def scenario(folder: str) -> None:
        path = f"{folder}/broker.sock"
        allow = write(tmp_path / "allow.json", allow_list(engine, f"{folder}/r"))
        docker = Docker(broker=path, images={"python": engine.images["python"]})
        try:
            with listening(path, allow, os.geteuid()):
                await until(lambda: os.path.exists(path))
                await docker.start()
                assert docker.broker_pid is None
                assert (await run(docker, engine, "print(1)")).stdout == "1\n"
            done = await run(docker, engine, "print(1)")
            assert (done.status, "the container broker" in done.stderr) == ("unavailable", True)
            assert (await run(docker, engine, "print(1)")).stderr.startswith("no container broker can be reached")
            with listening(path, allow, os.geteuid()):
                await until(lambda: os.path.exists(path))
                assert (await run(docker, engine, "print(1)")).stdout == "1\n"
        finally:
            await docker.close()
        assert ours(engine, f"{folder}/r") == []

    with root() as folder:
        play(scenario(folder))
