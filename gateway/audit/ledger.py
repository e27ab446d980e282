"""Opening the ledger: the lock, recovery, the first lines, then a `Writer`. The one place where its parts are joined.

It starts nothing on a shard that was altered or that another process writes to.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import orjson

from gateway.audit.content import Contents
from gateway.audit.disk import Disk, OsDisk
from gateway.audit.keystore import KeyStore, master_key
from gateway.audit.lines import WHOSE, Lines
from gateway.audit.recover import Recovered, recover
from gateway.audit.rotation import RECORD, SigningKey
from gateway.audit.shard import Shard, Tuning
from gateway.audit.verify import segments, whole_lines
from gateway.audit.writer import Writer
from gateway.tool import Json


class LedgerLocked(Exception):
    """Another process writes to this shard."""


def open_ledger(
    home: Path,
    *,
    shard: str | None = None,
    disk: Disk | None = None,
    tuning: Tuning | None = None,
    clock: Callable[[], float] = time.time,
) -> Writer:
    """The ledger of `home`, recovered and ready to be written. Blocks: about a second per 64 MiB to recover.

    `shard` defaults to the last one there is, else `w1`. Raises `LedgerLocked`, `TamperedLog`, `OSError` (no space, no
    permission), `ValueError` (a key file that is none).
    """
    disk, tuning = disk or OsDisk(), tuning or Tuning()
    audit = home / "audit"
    audit.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = audit / (shard or _last_shard(audit))
    folder.mkdir(mode=0o700, exist_ok=True)
    disk.sync_folder(audit)
    lock = _lock(folder)
    try:
        contents = Contents(KeyStore(home / "state.db", master_key(home)), audit, disk)
        key = SigningKey(home, disk)
        found = recover(folder, key.key(), disk)
        lines = Lines(folder.name, found.head, clock, found.hlc)
        on_disk = Shard(disk, folder, lock, key.signer, tuning)
        on_disk.begin(found.head)
        first = _first_lines(folder, lines, key.signer.gateway, found)
        if key.unfinished is not None and not key.recorded(folder):
            first.append(lines.add(RECORD, key.unfinished, None))
        on_disk.write(first, lines.head(), begins=found.head.size)
        key.finish(on_disk)
    except BaseException:  # whatever it was goes on, but the lock is not left behind
        os.close(lock)
        raise
    return Writer(on_disk, lines, contents, key, tuning, clock)


def _last_shard(audit: Path) -> str:
    numbers = [int(path.name[1:]) for path in audit.glob("w*") if path.is_dir() and path.name[1:].isdecimal()]
    return f"w{max(numbers, default=1)}"


def _lock(folder: Path) -> int:
    # Read-only, so that a file system with the log on it can be remounted while the disk is failing.
    fd = os.open(folder / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise LedgerLocked(f"another process writes to {folder}") from None
    return fd


def _first_lines(folder: Path, lines: Lines, gateway: str, found: Recovered) -> list[bytes]:
    """`log.opened`; after a crash `log.recovered`; one `call.in_doubt` for each intent that has no outcome."""
    left_open = dict(found.head.open_calls)
    first = [lines.opened(gateway)]
    if not found.closed:
        what: dict[str, Json] = {"dropped_bytes": found.dropped, "last_seq": found.head.size - 1}
        if found.dropped:
            what["sha256"] = found.dropped_digest
        first.append(lines.add("log.recovered", what, None))
    read = lru_cache(maxsize=2)(lambda path: list(whole_lines(path)))
    for call_id, seq in left_open.items():
        intent = _record(folder, seq, read)
        copied = {name: intent[name] for name in WHOSE if name in intent}
        first.append(lines.add("call.in_doubt", {"call_id": call_id, "intent": seq, **copied}, None))
    return first


def _record(folder: Path, seq: int, read: Callable[[Path], list[bytes]]) -> Mapping[str, Json]:
    path = max((path for path in segments(folder) if int(path.stem) <= seq), default=None)
    lines = [] if path is None else read(path)[seq - int(path.stem) :]
    found: dict[str, Json] = orjson.loads(lines[0]) if lines else {}
    return found
