"""The gateway's own secret store: whose a secret is, what is on the disk, and the command that fills it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gateway.identity.store import SecretStore
from gateway.identity.vault import SecretVault
from gateway.model import Holder, Principal, Refusal, Session
from gateway.stages.authenticate import suppose
from gateway.stores.secrets import SqliteSecrets
from gateway.stores.sqlite import State
from gateway.tool import SecretUse

VALUE, OTHER = "canary-of-the-store-01", "canary-of-acme-000001"


def _use(name: str = "github") -> SecretUse:
    return SecretUse(name, f"store:{name}", ("api.test",), "Authorization", "Bearer {}")


def _holder(tenant: str) -> Holder:
    who = Principal("dev", tenant)
    return Holder(suppose(who, Session("s_1", "u_1", who.key, 0.0, 1e12)), "c_1", "tool", "tg_agent_of_the_caller")


def _store(path: Path, master: bytes = b"m" * 32) -> tuple[State, SecretStore]:
    state = State(path / "state.db")
    return state, SecretStore(SqliteSecrets(state), master)


def test_a_tenants_own_secret_stands_before_everybodys(tmp_path: Path) -> None:
    """Each tenant gets its own, others get the common one, and nobody another tenant's."""
    state, store = _store(tmp_path)
    with closing(state):
        vault = SecretVault({"store": store})
        store.put("", "github", VALUE, 1.0)
        store.put("acme", "github", OTHER, 2.0)
        store.put("acme", "only", OTHER, 2.0)
        found = {tenant: asyncio.run(vault.reveal(_use(), _holder(tenant))) for tenant in ("acme", "umbrella")}
        assert found == {"acme": OTHER, "umbrella": VALUE}
        assert asyncio.run(vault.reveal(_use(), None)) == VALUE
        with pytest.raises(Refusal) as refused:
            asyncio.run(vault.reveal(_use("only"), _holder("umbrella")))
        assert "it is not set" in refused.value.problem.detail
        assert set(vault.issued.names) == {VALUE, OTHER}


def test_nothing_on_the_disk_shows_a_value(tmp_path: Path) -> None:
    """Not in the database, nor in its log; and with another master key nothing opens."""
    state, store = _store(tmp_path)
    with closing(state):
        store.put("", "github", VALUE, 1.0)
        assert all(VALUE.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    state, other = _store(tmp_path, b"n" * 32)
    with closing(state), pytest.raises(Refusal) as refused:
        asyncio.run(SecretVault({"store": other}).reveal(_use(), None))
    assert "master key" in refused.value.problem.detail


def test_a_row_moved_to_another_name_does_not_open(tmp_path: Path) -> None:
    """Whoever can write `state.db` cannot make one secret stand for another."""
    state, store = _store(tmp_path)
    with closing(state):
        store.put("", "cheap", VALUE, 1.0)
        rows = SqliteSecrets(state)
        sealed = rows.find("", "cheap")
        assert sealed is not None
        rows.put("", "github", sealed, 1.0)
        with pytest.raises(Refusal):
            asyncio.run(SecretVault({"store": store}).reveal(_use(), None))


def test_a_replaced_secret_is_used_at_once_and_a_removed_one_no_more(tmp_path: Path) -> None:
    """No copy in memory stands in the way of rotation."""
    state, store = _store(tmp_path)
    with closing(state):
        vault = SecretVault({"store": store})
        for value in (VALUE, OTHER):
            store.put("", "github", value, 1.0)
            assert asyncio.run(vault.reveal(_use(), None)) == value
        assert (store.remove("", "github"), store.remove("", "github")) == (True, False)
        assert vault.look(_use()) == "it is not set"


def _run(home: Path, typed: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from gateway.cli import main; sys.exit(main())", "secrets"]
    return subprocess.run(
        [*command, *arguments, "--home", home], input=typed, capture_output=True, text=True, timeout=60
    )


def test_the_command_keeps_lists_and_removes(tmp_path: Path) -> None:
    """A value goes in by standard input, and no command prints it."""
    done = [
        _run(tmp_path, VALUE + "\n", "set", "github"),
        _run(tmp_path, OTHER, "set", "github", "--tenant", "acme"),
        _run(tmp_path, "", "list"),
        _run(tmp_path, "", "remove", "github"),
        _run(tmp_path, "", "remove", "github"),
    ]
    assert [each.returncode for each in done] == [0, 0, 0, 0, 1]
    assert "github  (everybody)" in done[2].stdout
    assert "github  acme" in done[2].stdout
    assert all(VALUE not in each.stdout + each.stderr for each in done)


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        ("short", ("set", "github")),
        ("", ("set", "github", "--weak")),
        ("two\nlines-of-a-secret", ("set", "github")),
        ("not-ascii-é-0123456789", ("set", "github")),
        (VALUE, ("set", "../etc")),
        (VALUE, ("set", "")),
        ("a" * 20_000, ("set", "github")),
    ],
)
def test_what_is_no_secret_is_refused(tmp_path: Path, typed: str, arguments: tuple[str, ...]) -> None:
    """Exit 2, and nothing is kept."""
    assert _run(tmp_path, typed, *arguments).returncode == 2
    state, store = _store(tmp_path)
    with closing(state):
        assert store.all() == []


def test_what_the_gateway_keeps_for_itself_is_no_secret_of_a_spec(tmp_path: Path) -> None:
    """A provider's next refresh token stands there too, under a name with a colon: no call gets it."""
    state, store = _store(tmp_path)
    with closing(state):
        store.put("", "oauth:crm", VALUE, 1.0)
        with pytest.raises(Refusal) as refused:
            asyncio.run(SecretVault({"store": store}).reveal(_use("oauth:crm"), _holder("acme")))
        assert "it is not set" in refused.value.problem.detail


@pytest.mark.parametrize("tenant", ["a b", "a\nb", "t" * 129])
def test_a_secret_for_a_tenant_that_cannot_be_is_not_kept(tmp_path: Path, tenant: str) -> None:
    """A sentence, not a secret that nobody ever gets."""
    done = _run(tmp_path, VALUE, "set", "github", "--tenant", tenant)
    assert (done.returncode, done.stderr.startswith("toolgate: --tenant")) == (2, True)
