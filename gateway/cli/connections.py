"""`toolgate connections`: the accounts that people connected at the gateway of a home folder. It reads no token."""

from __future__ import annotations

import contextlib
from argparse import ArgumentParser
from collections.abc import Iterator

from gateway.accounts import Connected
from gateway.cli.common import Arguments, Verbs, home_of, say, when
from gateway.home import Home
from gateway.stores.accounts import SqliteAccounts
from gateway.stores.sqlite import State

_BY = "command line"


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    what = verbs.add_parser("connections", help="accounts that people connected: list, remove").add_subparsers(
        dest="what", required=True
    )
    what.add_parser("list", parents=[common], help="all of them, never their tokens").set_defaults(run=list_accounts)
    remove = what.add_parser("remove", parents=[common], help="disconnect an account")
    remove.add_argument("id", help="as `list` shows it")
    remove.set_defaults(run=remove_account)


def list_accounts(arguments: Arguments) -> int:
    """Those in use."""
    with _rows(home_of(arguments)) as rows:
        found = rows.all()
    shown = "\n".join(
        f"{each.id}  {each.person.kind} {each.person.name} of {each.person.tenant}  {each.provider}  "
        f"since {when(each.at)}, for agent {each.by}"
        for each in found
    )
    say(arguments, [_row(each) for each in found], shown or "no accounts are connected")
    return 0


def remove_account(arguments: Arguments) -> int:
    """Marks one: a running gateway uses it no more within a second, else the next one that starts. Exit 1 if none."""
    with _rows(home_of(arguments)) as rows:
        done = rows.drop(arguments.id, _BY)
    said = "disconnected: no call uses it from now on" if done else "no account in use has this id"
    say(arguments, {"id": arguments.id, "disconnected": done}, said)
    return 0 if done else 1


@contextlib.contextmanager
def _rows(home: Home) -> Iterator[SqliteAccounts]:
    with contextlib.closing(State(home.state)) as state:
        yield SqliteAccounts(state)


def _row(account: Connected) -> dict[str, object]:
    person = account.person
    said: dict[str, object] = {"id": account.id, "tenant": person.tenant, person.kind: person.name}
    return said | {"provider": account.provider, "connected_at": account.at, "by": account.by, "scope": account.scope}
