"""`toolgate secrets`: the gateway's own secret store. A value comes in by standard input, and never out again."""

from __future__ import annotations

import contextlib
import getpass
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator

from gateway.audit.keystore import master_key
from gateway.cli.common import Arguments, Verbs, home_of, say, settings_of, when
from gateway.home import Home
from gateway.identity.store import SecretStore
from gateway.identity.vault import MAX_SECRET_BYTES, MIN_SECRET_CHARS
from gateway.stores.secrets import SecretRow, SqliteSecrets
from gateway.stores.sqlite import State

_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_LONGEST = 64
_LONGEST_TENANT = 128


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    what = verbs.add_parser("secrets", help="credentials for backends: set, list, remove").add_subparsers(
        dest="what", required=True
    )
    put = what.add_parser("set", parents=[common], help="keep a secret, read from standard input")
    put.add_argument("--weak", action="store_true", help=f"take one of fewer than {MIN_SECRET_CHARS} characters")
    put.set_defaults(run=set_secret)
    what.add_parser("list", parents=[common], help="all secrets, never their values").set_defaults(run=list_secrets)
    remove = what.add_parser("remove", parents=[common], help="forget a secret")
    remove.set_defaults(run=remove_secret)
    for verb in (put, remove):
        verb.add_argument("name")
        verb.add_argument("--tenant", default="", help="of this tenant only (default: everybody's)")


def _whose(arguments: Arguments) -> bool:
    """Whether a tenant could have the name that was given for one."""
    tenant: str = arguments.tenant
    return len(tenant) <= _LONGEST_TENANT and tenant.isprintable() and " " not in tenant


def set_secret(arguments: Arguments) -> int:
    """Keeps a value; one of that name is replaced."""
    name = arguments.name
    if not (0 < len(name) <= _LONGEST and _NAME.issuperset(name) and name[0].isalnum()):
        return _wrong(f"a name has 1 to {_LONGEST} characters A-Z a-z 0-9 . _ -, the first no sign")
    if not _whose(arguments):
        return _wrong(f"--tenant: a name has at most {_LONGEST_TENANT} characters, none of them a space")
    if sys.stdin.isatty():
        value = getpass.getpass(f"value of {name}: ")
    else:
        value = sys.stdin.read(MAX_SECRET_BYTES + 2).removesuffix("\n").removesuffix("\r")
    if not value or not (value.isascii() and value.isprintable()) or len(value) > MAX_SECRET_BYTES:
        return _wrong(f"a secret is printable ASCII on one line, of at most {MAX_SECRET_BYTES} characters")
    if len(value) < MIN_SECRET_CHARS and not arguments.weak:
        return _wrong(f"it is shorter than {MIN_SECRET_CHARS} characters, and may be guessed: --weak takes it")
    home = Home(settings_of(arguments).home)
    home.make()  # before the first start too
    with _store(home) as store:
        store.put(arguments.tenant, name, value, time.time())
    kept = {"name": name, "tenant": arguments.tenant or None, "source": f"store:{name}"}
    say(arguments, kept, f'kept; a spec uses it as `from: "store:{name}"`')
    return 0


def list_secrets(arguments: Arguments) -> int:
    """What there is."""
    with _store(home_of(arguments)) as store:
        rows = store.all()
    shown = "\n".join(f"{row.name}  {row.tenant or '(everybody)'}  set {when(row.set_at)}" for row in rows)
    say(arguments, [_row(row) for row in rows], shown or "no secrets")
    return 0


def remove_secret(arguments: Arguments) -> int:
    """Forgets one; calls that need it are refused from now on."""
    with _store(home_of(arguments)) as store:
        done = store.remove(arguments.tenant, arguments.name)
    said = {"name": arguments.name, "tenant": arguments.tenant or None, "removed": done}
    say(arguments, said, "removed" if done else "there is no such secret")
    return 0 if done else 1


@contextlib.contextmanager
def _store(home: Home) -> Iterator[SecretStore]:
    with contextlib.closing(State(home.state)) as state:
        yield SecretStore(SqliteSecrets(state), master_key(home.path))


def _row(row: SecretRow) -> dict[str, object]:
    return {"name": row.name, "tenant": row.tenant or None, "set_at": row.set_at}


def _wrong(said: str) -> int:
    print(f"toolgate: {said}", file=sys.stderr)
    return 2
