"""A file that a call left outlives kill -9, and what the kill left half done does not."""

from __future__ import annotations

import http.client
from pathlib import Path

from gateway.artifacts import handle_of
from tests.gateway.leaver import POLICY, SPEC
from tests.served import Served, ready, start

TABLE = b"a,b\n1,2\n"
WRITES = 'open("out.csv", "w").write("a,b\\n1,2\\n")'


def get(gateway: Served, handle: str) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        connection.request("GET", f"/v1/artifacts/{handle}", headers={"Authorization": f"Bearer {gateway.key}"})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("content-disposition")
    finally:
        connection.close()


def test_a_file_outlives_the_gateway(tmp_path: Path) -> None:
    """Left by real code, killed, started again: the same bytes to the same caller; temporary files and orphans gone."""
    home, specs, policies = tmp_path / "home", tmp_path / "specs", tmp_path / "policies"
    for folder, name, text in ((specs, "work.yaml", SPEC), (policies, "p.yaml", POLICY)):
        folder.mkdir()
        (folder / name).write_text(text)
    flags = ("--specs", str(specs), "--policies", str(policies))
    gateway = ready(start(home, *flags), home)
    try:
        status, said = gateway.call("work", {"code": WRITES})
        assert (status, said["status"]) == (200, "done")
        assert said["artifacts"][0]["handle"] == handle_of(TABLE)
        kept = list((home / "artifacts").iterdir())
    finally:
        gateway.kill()
    (home / "artifacts" / ".0011223344556677.new").write_bytes(b"half")
    (home / "artifacts" / ("0" * 32 + "-" + "0" * 64)).write_bytes(b"without a row")
    again = ready(start(home, *flags), home)
    try:
        assert get(again, handle_of(TABLE)) == (200, TABLE, 'attachment; filename="out.csv"')
        assert get(again, handle_of(b"else"))[0] == 404
        assert list((home / "artifacts").iterdir()) == kept
    finally:
        again.process.terminate()
        assert again.process.wait(30) == 0
