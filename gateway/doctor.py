"""What is off, old, exposed or missing on this host, and what each sandbox backend can really give here.

Looks by starting things and asking them; it repairs nothing, dials nobody, and reads no secret.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from gateway.audit.checkpoint import PUBLIC_KEY_FILE
from gateway.audit.heads import newest_heads, noted
from gateway.audit.notes import Key
from gateway.audit.rotation import NEXT, in_use_since
from gateway.audit.verify import rotations
from gateway.heads import weaknesses
from gateway.ledger_ports import SignedHead
from gateway.settings import Settings
from sandboxes.docker import Docker
from sandboxes.facts import concerns
from sandboxes.model import GUARANTEES, Backend

# Versions below these have published holes that reach what is used here.
FLOORS = {"starlette": (1, 0, 1), "wasmtime": (40, 0, 4), "urllib3": (2, 5, 0), "requests": (2, 32, 4)}
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OLD = 365  # days after which a signing key is spoken of


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. state: `ok`; `note`, worth knowing; `bad`, to be changed."""

    area: str
    state: Literal["ok", "note", "bad"]
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """One sandbox backend as it is here.

    missing: why it cannot be had, None when it can. walls: what confines its processes. notes: what is wrong with what
    it stands on.
    """

    name: str
    missing: str | None = None
    guarantees: frozenset[str] = frozenset()
    walls: Mapping[str, bool] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


async def look(backend: Backend) -> Found:
    """What a started backend says of itself, and what is known of the engine under it."""
    walls = getattr(backend, "walls", {})
    notes = concerns(await backend.status()) if isinstance(backend, Docker) else ()
    return Found(backend.name, None, backend.guarantees, dict(walls), tuple(notes))


def host(settings: Settings) -> Iterator[Check]:
    """Checks of the files, the versions and the installation."""
    yield from _home(settings.home)
    yield from _heads(settings)
    yield from _signing(settings)
    yield from _guests(settings.sandboxes.guests.expanduser())
    yield from _versions()
    yield from _installation()
    yield from _exposed(settings)


def backend(found: Found) -> Iterator[Check]:
    """Checks of one backend: is it there, and does its second wall stand."""
    if found.missing is not None:
        yield Check(found.name, "note", found.missing)
        return
    yield Check(found.name, "ok", f"gives {len(found.guarantees)} of {len(GUARANTEES)} guarantees")
    for text in found.notes:
        yield Check(found.name, "note", text)
    standing = [wall for wall, stands in found.walls.items() if stands]
    if standing:
        yield Check(found.name, "ok", f"its processes are confined by: {', '.join(standing)}")
    fallen = sorted(wall for wall, stands in found.walls.items() if not stands)
    if fallen:
        yield Check(found.name, "note", f"its processes are not confined by: {', '.join(fallen)}")


def table(found: list[Found]) -> list[str]:
    """Guarantees by backend, as lines of text: `yes` where it was found to hold here."""
    width = max(len(name) for name in GUARANTEES)
    lines = ["  ".join(["guarantee".ljust(width), *(each.name.ljust(12) for each in found)]).rstrip()]
    for name in sorted(GUARANTEES):
        cells = [("yes" if name in each.guarantees else "-").ljust(12) for each in found]
        lines.append("  ".join([name.ljust(width), *cells]).rstrip())
    return lines


def _home(home: Path) -> Iterator[Check]:
    if not home.exists():
        yield Check("home", "note", f"{home} is not there yet: the first start makes it")
        return
    open_ = [path for path in (home, *home.rglob("*")) if not path.is_symlink() and path.stat().st_mode & _OTHERS]
    for path in open_[:5]:
        yield Check("home", "bad", f"{path} can be opened by other users: chmod go-rwx {path}")
    if home.stat().st_uid != os.geteuid():
        yield Check("home", "bad", f"{home} belongs to another user")
    elif not open_:
        yield Check("home", "ok", f"{home} is private to this user")


def _heads(settings: Settings) -> Iterator[Check]:
    """Whether the proof of the log stands on the log's own disk, and whether each target has what was signed."""
    if not settings.audit.publish:
        text = (
            "signed heads stay on this host: whoever can rewrite its disk can cut records off the end of the log, "
            "or write it anew, and nobody can tell; name a place elsewhere in audit.publish"
        )
        yield Check("heads", "note", text)
        return
    try:
        newest = newest_heads(settings.home / "audit")
    except (OSError, ValueError) as error:
        yield Check("heads", "bad", f"a checkpoint cannot be read: {error}")
        return
    found = noted(settings.home)
    for target in settings.audit.publish:
        yield Check("heads", *_brought(target, newest, *found.get(target, ({}, None))))
        for weakness in weaknesses(target, settings.home):
            yield Check("heads", "note", f"{target} {weakness}")


def _signing(settings: Settings) -> Iterator[Check]:
    """Who has to have the public key, how long the private one is in use, and whether its rotation was cut short."""
    audit = settings.home / "audit"
    if not (audit / PUBLIC_KEY_FILE).exists():
        return
    try:
        key = (audit / PUBLIC_KEY_FILE).read_text(encoding="ascii").strip()
        replaced = Key(key, rotations(audit)).replaced
        since = in_use_since(audit, key)
        days = None if since is None else (datetime.now(UTC) - datetime.fromisoformat(since)).days
    except (OSError, ValueError, TypeError) as error:
        yield Check("key", "bad", f"the public key, or what replaced it, cannot be read: {error}")
        return
    if replaced:
        yield Check("key", "bad", f"{audit / PUBLIC_KEY_FILE} was replaced by another key, as rotations says")
    if (settings.home / NEXT).exists():
        yield Check("key", "note", "a rotation of the signing key is not finished: ask again, or start, to finish it")
    if days is not None and days > _OLD:
        text = f"the signing key is in use for {days} days: toolgate audit rotate-key puts another in its place"
        yield Check("key", "note", text)
    age = "" if since is None else f" since {since[:10]}"
    yield Check("key", "ok", f"{key} signs{age}: whoever is to check the log needs a copy from elsewhere")


def _brought(
    target: str, newest: Mapping[str, SignedHead], has: Mapping[str, int], trouble: str | None
) -> tuple[Literal["ok", "note", "bad"], str]:
    """State and text for one target, which has heads of such sizes by shard."""
    behind = [f"{shard} at {has.get(shard, 0)} of {head.size}" for shard, head in newest.items()]
    if trouble is not None:
        return "bad", f"{target} does not take the newest head: {trouble}"
    if not newest:
        return "note", f"{target} gets its first head once a gateway runs here"
    if any(has.get(shard) != head.size for shard, head in newest.items()):
        return "note", f"{target} is behind, {', '.join(behind)}: a gateway that runs brings the rest"
    return "ok", f"{target} has every newest head"


def _guests(guests: Path) -> Iterator[Check]:
    if not guests.exists():
        yield Check("guests", "note", f"{guests} is not there yet: `make setup` or the first start builds the guests")
    elif guests.stat().st_mode & _OTHERS or guests.stat().st_uid != os.geteuid():
        yield Check("guests", "bad", f"{guests} holds native code that is run: it must be this user's alone, mode 0700")
    else:
        yield Check("guests", "ok", f"{guests} is private to this user")


def _versions() -> Iterator[Check]:
    for name, floor in FLOORS.items():
        version = importlib.metadata.version(name)
        numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())
        wanted = ".".join(map(str, floor))
        state: Literal["ok", "bad"] = "ok" if numbers >= floor else "bad"
        yield Check("versions", state, f"{name} {version}{'' if state == 'ok' else f': at least {wanted} is needed'}")


def _installation() -> Iterator[Check]:
    """Whether another distribution has put its own `gateway` or `sandboxes` over ours."""
    distribution = importlib.metadata.distribution("toolgate")
    ours = [file for file in distribution.files or [] if file.hash and file.parts[0] in ("gateway", "sandboxes")]
    if not ours:
        yield Check("installation", "ok", "runs from a checkout")
        return
    mixed = [str(file) for file in ours if file.hash and _digest(Path(str(file.locate()))) != file.hash.value]
    for name in mixed[:5]:
        yield Check("installation", "bad", f"{name} is not the file that was installed: make a fresh environment")
    if not mixed:
        yield Check("installation", "ok", f"{len(ours)} files are as they were installed")


def _digest(path: Path) -> str:
    try:
        digest = hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return ""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _exposed(settings: Settings) -> Iterator[Check]:
    docker = settings.sandboxes.docker
    if docker.broker is None and os.access(docker.socket, os.W_OK):
        text = (
            f"this user can open {docker.socket}, which is as good as root: "
            "run the broker as another user and name its socket in sandboxes.docker.broker"
        )
        yield Check("docker", "note", text)
    if os.environ.get("DOCKER_HOST", "").startswith("tcp:"):
        yield Check("docker", "bad", "DOCKER_HOST names a TCP address: whoever reaches it is root on that machine")
    if not settings.on_loopback:
        yield Check("listen", "note", f"{settings.listen} can be reached from other machines: put TLS in front of it")
    if settings.anonymous:
        yield Check("listen", "note", "callers without a key are served as agent `anonymous`")
