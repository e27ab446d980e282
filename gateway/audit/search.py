"""Searching the ledger: pages of records by the index, else by reading all of it, with content where it is asked for.

Both ways give the same answer. What the index says is believed only where the record itself says so too; where it does
not, the index is made anew, once. It never decides who may read: doors and the command line do.
"""

from __future__ import annotations

import asyncio
import heapq
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from gateway.audit import query
from gateway.audit.columns import Place, columns_of, matches, place_at, place_of
from gateway.audit.content import Contents
from gateway.audit.disk import OsDisk
from gateway.audit.index import FILE, Spot, discard, is_damage, opened, read_line
from gateway.audit.keystore import KeyStore, master_key
from gateway.audit.query import Record
from gateway.tool import Json
from gateway.wanted import Page, Wanted

_CONTENT = 8 << 20  # bytes of sealed content in a page, about
_ALL = 1 << 31


class Search:
    """The `Past` of one home (`gateway/wanted.py`), on a thread of its own: calls never wait for a search."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit-search")

    async def page(self, wanted: Wanted, limit: int, cursor: str | None, *, newest_first: bool, content: bool) -> Page:
        def search() -> Page:
            return page(self._home, wanted, limit, cursor, newest_first=newest_first, content=content)

        return await asyncio.get_running_loop().run_in_executor(self._thread, search)

    def close(self) -> None:
        """Lets a search that runs end by itself, and begins none that waits."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def page(
    home: Path,
    wanted: Wanted,
    limit: int,
    cursor: str | None = None,
    *,
    newest_first: bool = False,
    content: bool = False,
) -> Page:
    """See the port. A page with content ends early when there is much of it. Raises `BadCursor`, and `OSError`,
    `ValueError` or `sqlite3.Error` when log or keys cannot be read."""
    after = None if cursor is None else place_at(cursor)
    found = search(home, wanted, limit + 1, after, newest_first=newest_first)
    kept = found[:limit]
    if content:
        kept = kept[: _fitting(kept)]
    more = place_of(kept[-1]).cursor() if len(kept) < len(found) else None
    if not content:
        return Page([{"record": _plain(record)} for record in kept], more)
    with closing(KeyStore(home / "state.db", master_key(home))) as keys:
        contents = Contents(keys, home / "audit", OsDisk())
        return Page([_opened(query.opened(contents, record)) for record in kept], more)


def search(home: Path, wanted: Wanted, limit: int, after: Place | None, *, newest_first: bool = False) -> list[Record]:
    """At most `limit` records: by the index, made anew where it is damaged; without it where there can be none."""
    found = _indexed(home, wanted, limit, after, newest_first=newest_first)
    return scan(home, wanted, limit, after, newest_first=newest_first) if found is None else found


def find_call(home: Path, call_id: str) -> list[Record]:
    """As `query.find_call`, by the index where there is one: to make it takes longer than to look for one call."""
    found = _known(home, Wanted(call=call_id))
    return query.find_call(home, call_id) if found is None else found


def nested(home: Path, call_id: str) -> list[Record]:
    """As `query.nested`, by the index where there is one."""
    found = _known(home, Wanted(parent=call_id))
    return query.nested(home, call_id) if found is None else query.newest_of_each(found)


def show(home: Path, call_id: str) -> list[query.Shown]:
    """As `query.show`, by the index where there is one."""
    return list(query.reveal(home, find_call(home, call_id)))


def _known(home: Path, wanted: Wanted) -> list[Record] | None:
    try:
        return _indexed(home, wanted, _ALL, None) if (home / FILE).exists() else None
    except UnicodeEncodeError:  # an id that is no text
        return None


def _indexed(
    home: Path, wanted: Wanted, limit: int, after: Place | None, *, newest_first: bool = False
) -> list[Record] | None:
    for _ in range(2):
        try:
            with opened(home) as index:
                found = _read(home, wanted, index.find(wanted, limit, after, newest_first=newest_first))
            if found is not None:
                return found
            discard(home)
        except sqlite3.Error as error:
            if not is_damage(error):
                break
            discard(home)
        except OSError:  # a home that may be read and not be written
            break
    return None


def scan(home: Path, wanted: Wanted, limit: int, after: Place | None, *, newest_first: bool = False) -> list[Record]:
    """The same, by reading every record since `wanted.since`."""
    found = _wanted(home, wanted)
    if newest_first:
        before = ((place, record) for place, record in found if after is None or place < after)
        return [record for _, record in heapq.nlargest(limit, before, key=lambda pair: pair[0])]
    rest = (record for place, record in found if after is None or place > after)
    return [record for record, _ in zip(rest, range(limit), strict=False)]


def _wanted(home: Path, wanted: Wanted) -> Iterator[tuple[Place, Record]]:
    for record in query.since(home, wanted.since or 0.0):
        place = place_of(record)
        if matches(wanted, place, columns_of(record)):
            yield place, record


def _read(home: Path, wanted: Wanted, spots: Sequence[Spot]) -> list[Record] | None:
    """The records at these spots; `None` when one is not there or is another."""
    found = []
    for spot in spots:
        record = read_line(home, spot)
        if record is None or not matches(wanted, spot.place, columns_of(record)):
            return None
        found.append(record)
    return found


def _fitting(records: Sequence[Record]) -> int:
    """How many of these may be opened together: at least one."""
    total = 0
    for number, record in enumerate(records):
        sealed = record.get("content")
        if isinstance(sealed, dict):
            total += int(str(sealed.get("bytes") or len(str(sealed.get("box")))))
        if total > _CONTENT and number:
            return number
    return len(records)


def _plain(record: Record) -> dict[str, Json]:
    return {name: value for name, value in record.items() if name != "content"}


def _opened(shown: query.Shown) -> dict[str, Json]:
    said: dict[str, Json] = {"record": _plain(shown.record), "content": shown.content}
    return said | ({"unreadable": shown.unreadable} if shown.unreadable else {})
