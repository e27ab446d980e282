"""Heads off the host, of a real gateway: after kill -9, at the close of a session, past a collector that hangs."""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event, Thread

from gateway.audit.notes import head_of
from tests.e2e.upstream import Quiet
from tests.served import Served, ready, served, start, toolgate

QUERY = {"document": {"n": 1}, "path": "/n"}


@dataclass
class Collected:
    """A collector that is up: it answers, and keeps what it got, while `answers` is set."""

    url: str = ""
    answers: Event = field(default_factory=Event)
    notes: list[bytes] = field(default_factory=list)

    def sizes(self) -> list[int]:
        """The sizes of the heads it has, in order."""
        return [head_of(note.decode()).size for note in self.notes]


@contextmanager
def collecting() -> Iterator[Collected]:
    """Serves on a free port until the end."""
    collected = Collected()

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            note = self.rfile.read(int(self.headers["Content-Length"]))
            collected.answers.wait()
            collected.notes.append(note)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    with Quiet(("127.0.0.1", 0), Answering) as server:
        collected.url = f"http://127.0.0.1:{server.server_address[1]}/heads"
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            yield collected
        finally:
            collected.answers.set()
            server.shutdown()
            serving.join()


def publish(*targets: str, every: float = 0.1) -> dict[str, str]:
    """The environment of a gateway that brings its heads there."""
    return {"TOOLGATE_AUDIT__PUBLISH": json.dumps(targets), "TOOLGATE_AUDIT__CHECKPOINT_INTERVAL": str(every)}


def until(true: Callable[[], bool]) -> None:
    """Waits until something is so; gives up after 30 s, which is only there to bound a hang."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.02)


def signed(home: Path) -> int:
    """The size of the newest head on disk."""
    return head_of((home / "audit" / "w1" / "checkpoint").read_text()).size


def delete(gateway: Served, path: str) -> int:
    """One DELETE; the status."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        connection.request("DELETE", path, headers={"Authorization": f"Bearer {gateway.key}"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_head_that_was_signed_before_kill_9_is_brought_after_it(tmp_path: Path) -> None:
    """The collector gets a head over all that was signed before the kill, and the log verifies against it."""
    home = tmp_path / "home"
    with collecting() as collector:
        gateway = ready(start(home, env=publish(collector.url)), home)
        assert gateway.call("json_query", QUERY)[0] == 200
        size = signed(home)
        until(lambda: signed(home) > size)
        before = signed(home)
        gateway.kill()
        assert collector.notes == []
        with served(home, env=publish(collector.url)):
            collector.answers.set()
            until(lambda: max(collector.sizes(), default=0) >= before)
        assert collector.sizes()[-1] == signed(home)
        for number, note in enumerate(collector.notes):
            (tmp_path / f"{number}.checkpoint").write_bytes(note)
            assert toolgate(home, "audit", "verify", "--head", str(tmp_path / f"{number}.checkpoint")).returncode == 0


def test_a_collector_that_hangs_is_said_and_holds_up_nothing(tmp_path: Path) -> None:
    """Calls are served, the gateway is ready with `heads: stale`, the drop is fresh, a stop ends, doctor finds it."""
    home, drop = tmp_path / "home", tmp_path / "drop"
    drop.mkdir()
    with collecting() as collector:
        env = publish(collector.url, f"file:{drop}")
        with served(home, env=env) as gateway:
            until(lambda: gateway.get("/readyz")[1]["heads"] == "stale")
            status, parts = gateway.get("/readyz")
            assert (status, parts["audit"]) == (200, "ok")
            assert gateway.call("json_query", QUERY)[0] == 200
            until(lambda: (drop / f"w1-{signed(home)}.checkpoint").exists())
        assert gateway.process.returncode == 0
        assert (drop / f"w1-{signed(home)}.checkpoint").read_bytes() == (home / "audit/w1/checkpoint").read_bytes()
        config = tmp_path / "toolgate.yaml"
        config.write_text(json.dumps({"audit": {"publish": [collector.url, f"file:{drop}"]}}))
        found = json.loads(toolgate(home, "doctor", "--json", "--config", str(config)).stdout)
        said = [(each["state"], each["text"]) for each in found["checks"] if each["area"] == "heads"]
        assert said[0] == (
            "bad",
            f"{collector.url} does not take the newest head: The upstream did not answer in time.",
        )
        assert ("ok", f"file:{drop} has every newest head") in said
        assert gateway.process.stderr is not None
        told = [line for line in gateway.process.stderr.read().splitlines() if "heads: " in line]
        assert len(told) == 1


def test_closing_a_session_signs_and_brings_what_it_did(tmp_path: Path) -> None:
    """With a minute between two checkpoints, the head over the session's records is in the drop at its close."""
    home, drop = tmp_path / "home", tmp_path / "drop"
    drop.mkdir()
    with served(home, env=publish(f"file:{drop}", every=60.0)) as gateway:
        _, session = gateway.post("/v1/sessions", b"{}")
        head = {"Toolgate-Session": session["id"]}
        status, _ = gateway.post("/v1/tools/json_query/call", json.dumps({"arguments": QUERY}).encode(), **head)
        assert status == 200
        size = signed(home)
        assert delete(gateway, f"/v1/sessions/{session['id']}") == 200
        until(lambda: signed(home) > size)
        until(lambda: (drop / f"w1-{signed(home)}.checkpoint").exists())


def test_standard_output_gets_a_line_for_each_head(tmp_path: Path) -> None:
    """Beside the ready line, every line is a head; the last one is what was signed at the stop."""
    home = tmp_path / "home"
    process = start(home, env=publish("stdout"))
    assert process.stdout is not None
    told: list[dict[str, object]] = []
    while not any("ready" in line for line in told):
        told.append(json.loads(process.stdout.readline()))
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    told += [json.loads(line) for line in rest.splitlines()]
    heads = [line for line in told if "checkpoint" in line]
    assert len(heads) == len(told) - 1
    assert heads[-1] == {
        "shard": "w1",
        "size": signed(home),
        "checkpoint": (home / "audit/w1/checkpoint").read_text(encoding="utf-8"),
    }
