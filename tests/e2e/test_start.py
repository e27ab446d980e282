"""Starting and stopping: what a first start makes, what a second finds, and what is refused."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.served import TOOLGATE, ready, served, start, toolgate


def test_a_first_start_makes_a_private_home_and_a_key_that_is_kept_hashed(tmp_path: Path) -> None:
    """Folder 0700, files 0600, and the key in clear in the credentials file alone."""
    home = tmp_path / "home"
    with served(home) as gateway:
        status, said = gateway.call("run_python", {"code": "print(2 + 2)"})
        assert (status, said["result"]["content"][0]["text"]) == (200, "4\n")
        key = gateway.key
    assert home.stat().st_mode & 0o777 == 0o700
    for name in ("dev-credentials.json", "signing.key", "state.db"):
        assert (home / name).stat().st_mode & 0o777 == 0o600, name
    holding = [path.name for path in home.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert holding == ["dev-credentials.json"]


def test_a_second_start_keeps_the_key_and_the_log(tmp_path: Path) -> None:
    """The same key works, the log goes on, and it verifies over both runs."""
    with served(tmp_path / "home") as first:
        first.call("run_python", {"code": "print(1)"})
        key = first.key
    with served(tmp_path / "home") as second:
        assert second.key == key
        status, said = second.call("run_python", {"code": "print(2)"})
        assert status == 200
        assert said["record"]["seq"] > 5
    checked = toolgate(tmp_path / "home", "audit", "verify")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.startswith("ok shard=w1 records=")


def test_two_gateways_never_share_a_home(tmp_path: Path) -> None:
    """The ledger has one writer: the second start says so and ends."""
    with served(tmp_path / "home"):
        other = start(tmp_path / "home")
        out, err = other.communicate(timeout=60)
        assert (other.returncode, out) == (1, "")
        assert "another process writes" in err


def test_no_process_is_left_when_it_stops(tmp_path: Path) -> None:
    """SIGTERM ends the gateway and every sandbox worker."""
    process = start(tmp_path / "home")
    ready(process, tmp_path / "home")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.terminate()
    assert process.wait(30) == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


UNSAFE = {
    "anonymous beyond loopback": (["--anonymous", "--host", "0.0.0.0"], "anonymous: only on a loopback address"),
    "several workers": (["--workers", "2"], "workers:"),
    "a resolver that is none": (["--config", "CONFIG"], "egress:"),
    "a port that is none": (["--port", "99999"], "listen: a port lies between 0 and 65535, not 99999"),
    "no such folder": (["--specs", "nowhere"], "there is no such folder"),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_cannot_be_served_safely_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    """An exit code other than 0, one sentence, no traceback."""
    flags, sentence = UNSAFE[name]
    config = tmp_path / "toolgate.yaml"
    config.write_text("egress: {resolver: nonsense}\n")
    flags = [str(config) if flag == "CONFIG" else flag for flag in flags]
    process = start(tmp_path / "home", *flags)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (1, 2)
    assert sentence in err
    assert "Traceback" not in err + out


def test_unknown_settings_are_refused_by_name(tmp_path: Path) -> None:
    """From a file and from the environment alike."""
    file = tmp_path / "toolgate.yaml"
    file.write_text("listn: 127.0.0.1:9\n")
    done = subprocess.run([TOOLGATE, "check", "--config", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "listn: there is no such setting: did you mean 'listen'?" in done.stderr
    process = start(tmp_path / "home", env={"TOOLGATE_AUDIT__SEGMNT": "1"})
    _, err = process.communicate(timeout=60)
    assert "audit.segmnt: there is no such setting" in err


def test_the_anonymous_profile_serves_callers_without_a_key(tmp_path: Path) -> None:
    """On loopback, when asked for; and a wrong key is still wrong."""
    with served(tmp_path / "home", "--anonymous") as gateway:
        body = b'{"arguments": {"code": "print(1)"}}'
        status, said = gateway.post("/v1/tools/run_python/call", body)
        assert (status, said["status"]) == (200, "done")
        gateway.key = "nonsense"
        assert gateway.post("/v1/tools/run_python/call", body)[0] == 401


def test_keys_made_and_revoked_at_the_command_line_count_at_once(tmp_path: Path) -> None:
    """A new key works on its first use; a revoked one is refused within a second."""
    with served(tmp_path / "home") as gateway:
        made = toolgate(tmp_path / "home", "keys", "create", "--agent", "dev", "--json")
        said = json.loads(made.stdout)
        gateway.key = said["key"]
        assert gateway.call("run_python", {"code": "1"})[0] == 200
        assert toolgate(tmp_path / "home", "keys", "revoke", said["id"]).returncode == 0
        time.sleep(1.0)
        assert gateway.call("run_python", {"code": "1"})[0] == 401


def test_an_operator_key_cannot_call_tools(tmp_path: Path) -> None:
    """Scopes are not ranks: the operator reads and sets up, the agent calls."""
    with served(tmp_path / "home") as gateway:
        made = toolgate(tmp_path / "home", "keys", "create", "--scope", "operator")
        gateway.key = made.stdout.split()[0]
        status, said = gateway.call("run_python", {"code": "1"})
        assert (status, said["code"]) == (403, "insufficient_scope")


def test_a_log_that_cannot_be_opened_is_said_in_a_sentence(tmp_path: Path) -> None:
    """A signing key that others may read, for one: the sentence names the folder, and no traceback is shown."""
    home = tmp_path / "home"
    with served(home):
        pass
    (home / "signing.key").chmod(0o644)
    out, err = start(home).communicate(timeout=60)
    assert out == ""
    assert "the audit log cannot be opened" in err
    assert "Traceback" not in err


WEATHER = """
apiVersion: toolgate/v1
kind: Tool
name: weather
version: 1.0.0
description: The weather.
input_schema: {type: object}
effects: [read, egress]
secrets: [{name: weather-key, from: "env:WEATHER_KEY", hosts: [weather.example.com], header: "X-Key: {}"}]
runner: {http: {method: GET, url: "https://weather.example.com/now"}}
"""


def test_what_an_agent_would_stumble_over_is_said_at_the_start(tmp_path: Path) -> None:
    """A finding of lint, and a credential that is not there: both with their place, and the gateway serves."""
    specs, policies = tmp_path / "specs", tmp_path / "policies"
    specs.mkdir()
    policies.mkdir()
    (specs / "weather.yaml").write_text(WEATHER)
    rules = "[{id: r, effect: permit, match: {tools: [wether]}}]"
    (policies / "p.yaml").write_text(f"apiVersion: toolgate/v1\nkind: Policy\nid: p\nrules: {rules}\n")
    process = start(tmp_path / "home", "--specs", str(specs), "--policies", str(policies))
    ready(process, tmp_path / "home")
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert "p.yaml:4:" in err
    assert "'wether' matches no loaded tool" in err
    assert "weather.yaml:4: the credential weather-key cannot be used" in err
    assert "it is not set" in err


def test_the_name_of_an_agent_is_one_word(tmp_path: Path) -> None:
    """A key is made for a name that policies can write and a terminal can show."""
    with served(tmp_path / "home"):
        for flag in ("--agent", "--tenant", "--user"):
            for name in ("", "two words", "es\x1bcape"):
                made = toolgate(tmp_path / "home", "keys", "create", flag, name)
                assert made.returncode == 2
                assert made.stderr.startswith(f"toolgate: {flag}: ")


def test_a_server_that_no_host_name_reaches_says_so(tmp_path: Path) -> None:
    """Listening on every address without `hosts` refuses every request that names one of them."""
    process = start(tmp_path / "home", "--host", "0.0.0.0")
    gateway = ready(process, tmp_path / "home")
    status, said = gateway.get("/healthz")
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (status, said["code"]) == (403, "bad_origin")
    assert "toolgate: hosts: nobody calls this server 0.0.0.0" in err
