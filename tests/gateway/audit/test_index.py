"""The index of the ledger: it says what a plain reading of all records says, whatever happens to its file."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audit import query
from gateway.audit.columns import place_at, place_of
from gateway.audit.index import FILE, opened
from gateway.audit.lines import NOWHERE, Lines
from gateway.audit.query import records
from gateway.audit.search import find_call, nested, page, scan, search
from gateway.audit.segment import segment_path
from gateway.wanted import BadCursor, Wanted
from tests.gateway.audit.disks import SMALL, intent, ledger, write_calls

ALL = 10_000
NAMES = ("a", "b", "call.b", 'q"\\\x01', "é")
name = st.sampled_from(NAMES)
maybe = st.one_of(st.none(), name)
fields = st.fixed_dictionaries(
    {},
    optional={
        "call_id": maybe,
        "parent_call_id": name,
        "session_id": name,
        "tenant": name,
        "principal": st.fixed_dictionaries({"agent": maybe, "user": maybe}),
        "tool": st.one_of(st.none(), st.fixed_dictionaries({"name": name})),
        "decision": st.one_of(
            st.none(), st.fixed_dictionaries({"effect": name, "code": maybe, "rule": maybe, "rules": st.lists(name)})
        ),
        "outcome": st.fixed_dictionaries({"status": name, "code": maybe, "rule": maybe}),
    },
)
written = st.tuples(st.sampled_from(["w1", "w2"]), st.sampled_from(["call.a", "call.b", "log.a", "call"]), fields)
filters = st.builds(
    Wanted,
    call=maybe,
    parent=maybe,
    session=maybe,
    tenant=maybe,
    agent=maybe,
    user=maybe,
    tool=maybe,
    type=st.sampled_from([None, None, "call.*", "call.a", "*", "log.a"]),
    effect=maybe,
    code=maybe,
    rule=maybe,
    status=maybe,
    since=st.one_of(st.none(), st.integers(0, 40)),
    until=st.one_of(st.none(), st.integers(0, 40)),
)
one_filter = st.sampled_from(
    ["call", "parent", "session", "tenant", "agent", "user", "tool", "effect", "code", "rule", "status"]
)
simple = st.builds(lambda key, value: Wanted(**{key: value}), one_filter, name)


class Log:
    """A log of two shards that is written a line at a time, a second apart, in segments of some lines."""

    def __init__(self, home: Path, per_segment: int = 3) -> None:
        self._ticks, self._home, self._each = count(), home, per_segment
        self._lines = {shard: Lines(shard, NOWHERE, lambda: float(next(self._ticks))) for shard in ("w1", "w2")}
        (home / "audit").mkdir()

    def write(self, made: Sequence[tuple[str, str, Any]]) -> None:
        for shard, type_, said in made:
            (self._home / "audit" / shard).mkdir(exist_ok=True)
            seq = self._lines[shard].seq
            line = self._lines[shard].add(type_, said, None)
            with segment_path(self._home / "audit" / shard, seq - seq % self._each).open("ab") as file:
                file.write(line + b"\n")


def both(home: Path, wanted: Wanted, limit: int = ALL, **more: Any) -> list[Any]:
    """The answer of the index, which is that of the plain reading."""
    found = search(home, wanted, limit, more.pop("after", None), **more)
    assert found == scan(home, wanted, limit, None, **more)
    return found


def calls(home: Path, total: int) -> None:
    """A log of a real writer with so many calls, over several segments."""

    async def write() -> None:
        async with ledger(home, tuning=replace(SMALL, segment=3000)) as writer:
            await write_calls(writer, total)

    asyncio.run(write())


@given(st.lists(written, max_size=40), st.lists(written, max_size=10), st.lists(st.one_of(simple, filters), max_size=8))
@settings(max_examples=60, deadline=None)
def test_the_index_answers_as_a_plain_reading(first: Any, later: Any, asked: list[Wanted]) -> None:
    """For any records and any filter: the same records in the same order, both ways, also of what came later."""
    with tempfile.TemporaryDirectory() as folder:
        home, log = Path(folder), Log(Path(folder))
        for batch in (first, later):
            log.write(batch)
            assert both(home, Wanted()) == list(records(home))
            for wanted in asked:
                assert both(home, wanted) == both(home, wanted, newest_first=True)[::-1]


@given(st.lists(written, max_size=40), st.lists(written, max_size=10))
@settings(max_examples=30, deadline=None)
def test_a_call_is_found_the_same_with_and_without_an_index(first: Any, later: Any) -> None:
    """Its records, and the newest of each call that its code made, also of what came after the index was made."""
    with tempfile.TemporaryDirectory() as folder:
        home, log = Path(folder), Log(Path(folder))
        for batch in (first, later):
            log.write(batch)
            for call_id in NAMES:
                assert find_call(home, call_id) == query.find_call(home, call_id)
                assert nested(home, call_id) == query.nested(home, call_id)
            assert (home / FILE).exists() == (batch is later)
            search(home, Wanted(), ALL, None)


@given(st.lists(written, min_size=1, max_size=30), st.one_of(simple, filters), st.integers(1, 4), st.booleans())
@settings(max_examples=30, deadline=None)
def test_pages_together_are_the_whole_answer(made: Any, wanted: Wanted, limit: int, newest_first: bool) -> None:
    """Following the cursor to its end gives every record once, in order."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        Log(home).write(made)
        cursor, got = None, list[Any]()
        while True:
            found = page(home, wanted, limit, cursor, newest_first=newest_first)
            got += [each["record"] for each in found.records]
            cursor = found.next_cursor
            if cursor is None:
                break
            assert len(found.records) == limit
        assert got == scan(home, wanted, ALL, None, newest_first=newest_first)


def test_a_scan_goes_on_where_a_cursor_says(tmp_path: Path) -> None:
    """Without an index, too, a page begins after the last record of the one before."""
    calls(tmp_path, 5)
    whole = list(records(tmp_path))
    after = place_at(place_of(whole[3]).cursor())
    assert scan(tmp_path, Wanted(), 3, after) == whole[4:7]
    assert scan(tmp_path, Wanted(), 2, after, newest_first=True) == [whole[2], whole[1]]


def test_only_what_is_new_is_taken_in(tmp_path: Path) -> None:
    """An update begins where the last one ended: what stands before is not read again."""
    calls(tmp_path, 10)
    assert len(both(tmp_path, Wanted())) == len(list(records(tmp_path)))
    first = segment_path(tmp_path / "audit" / "w1", 0)
    kept = first.read_bytes()
    first.write_bytes(b"")
    with opened(tmp_path) as index:
        assert index.find(Wanted(), 1, None, newest_first=False)[0].place.seq == 0
    first.write_bytes(kept)
    calls(tmp_path, 10)
    assert both(tmp_path, Wanted()) == list(records(tmp_path))


def test_an_unfinished_line_is_left_for_the_next_time(tmp_path: Path) -> None:
    """Half a line, reserved space after it, and then the rest: the record is there once, when it is whole."""
    calls(tmp_path, 2)
    last = max((tmp_path / "audit" / "w1").glob("*.jsonl"))
    whole = last.read_bytes()
    for cut in (1, 40):
        last.write_bytes(whole[:-cut] + bytes(cut + 500))
        short = both(tmp_path, Wanted())
        assert short == list(records(tmp_path))
    last.write_bytes(whole)
    assert both(tmp_path, Wanted()) == [*short, list(records(tmp_path))[-1]]


def test_deleting_the_index_loses_nothing(tmp_path: Path) -> None:
    """It is made anew by the next who asks, readable by its owner alone."""
    calls(tmp_path, 4)
    before = both(tmp_path, Wanted(type="call.*"))
    (tmp_path / FILE).unlink()
    assert both(tmp_path, Wanted(type="call.*")) == before
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("audit-index*")}
    assert modes == {0o600}


def _noise(octets: bytes) -> bytes:
    return os.urandom(len(octets))


def _half(octets: bytes) -> bytes:
    return octets[: len(octets) // 2]


def _zeroed(octets: bytes) -> bytes:
    return octets[:4096] + bytes(len(octets) - 4096)


def _newer(octets: bytes) -> bytes:
    return octets[:60] + (99).to_bytes(4, "big") + octets[64:]  # PRAGMA user_version


@pytest.mark.parametrize("harm", [_noise, _half, _zeroed, _newer])
def test_a_damaged_index_is_made_anew(tmp_path: Path, harm: Any) -> None:
    """Noise, a cut, holes, or the format of another version: the answer is as if nothing had happened."""
    calls(tmp_path, 40)
    before = both(tmp_path, Wanted())
    file = tmp_path / FILE
    file.write_bytes(harm(file.read_bytes()))
    assert both(tmp_path, Wanted()) == before
    with opened(tmp_path) as index:
        assert len(index.find(Wanted(), ALL, None, newest_first=False)) == len(before)


def test_another_log_is_noticed(tmp_path: Path) -> None:
    """A shard that was replaced, or is gone, is not answered for from the old index."""
    calls(tmp_path, 6)
    both(tmp_path, Wanted())
    shutil.rmtree(tmp_path / "audit" / "w1")
    assert both(tmp_path, Wanted()) == []
    calls(tmp_path, 9)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "audit" / "w1", kept)
    assert len(both(tmp_path, Wanted(type="call.intent"))) == 9
    shutil.rmtree(tmp_path / "audit" / "w1")
    calls(tmp_path, 12)
    assert both(tmp_path, Wanted()) == list(records(tmp_path))
    shutil.rmtree(tmp_path / "audit" / "w1")
    shutil.move(kept, tmp_path / "audit" / "w1")
    assert len(both(tmp_path, Wanted(type="call.intent"))) == 9


def test_the_index_is_not_believed_against_the_record(tmp_path: Path) -> None:
    """A record that was altered where it stands is found by what it says now."""
    calls(tmp_path, 6)
    assert len(both(tmp_path, Wanted(call="c0"))) == 2
    first = segment_path(tmp_path / "audit" / "w1", 0)
    first.write_bytes(first.read_bytes().replace(b'"call_id":"c0"', b'"call_id":"x0"'))
    assert both(tmp_path, Wanted(call="c0")) == []
    assert len(both(tmp_path, Wanted(call="x0"))) == 2


def test_a_call_is_looked_for_without_making_an_index(tmp_path: Path) -> None:
    """Which takes longer; one that is there and lies is made anew, and one that cannot be used is done without."""
    calls(tmp_path, 6)
    assert len(find_call(tmp_path, "c3")) == 2
    assert not (tmp_path / FILE).exists()
    search(tmp_path, Wanted(), ALL, None)
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("UPDATE records SET start = (SELECT start FROM records WHERE call = 'c5') WHERE call = 'c3'")
        db.commit()
    assert find_call(tmp_path, "c3") == query.find_call(tmp_path, "c3") != []
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    assert find_call(tmp_path, "c3") == query.find_call(tmp_path, "c3")


def test_an_id_that_no_record_can_have_is_not_there(tmp_path: Path) -> None:
    """Bytes of a command line that are no text are no error."""
    calls(tmp_path, 1)
    for _ in range(2):
        assert find_call(tmp_path, "\udcff") == nested(tmp_path, "\udcff") == []
        search(tmp_path, Wanted(), ALL, None)


def test_a_machine_without_room_for_an_index_still_answers(tmp_path: Path) -> None:
    """Where no index can be made, all records are read."""
    calls(tmp_path, 3)
    (tmp_path / FILE).mkdir()
    assert [one["type"] for one in both(tmp_path, Wanted(call="c2"))] == ["call.intent", "call.outcome"]


def test_many_may_ask_while_the_log_grows(tmp_path: Path) -> None:
    """Searches at once, beside a writer: each finds what was written before it, nothing twice."""

    async def test() -> None:
        async with ledger(tmp_path, tuning=replace(SMALL, segment=3000)) as writer:
            with ThreadPoolExecutor(4) as pool:
                for number in range(15):
                    await writer.append(intent(f"c{number}"))
                    loop = asyncio.get_running_loop()
                    asks = [
                        loop.run_in_executor(pool, search, tmp_path, Wanted(tool="echo"), ALL, None) for _ in range(4)
                    ]
                    for found in await asyncio.gather(*asks):
                        assert [one["call_id"] for one in found] == [f"c{n}" for n in range(number + 1)]

    asyncio.run(test())


@pytest.mark.parametrize("cursor", ["", "x", "0" * 16, f"{'f' * 16}.1.w1", f"{'0' * 16}.-1.w1", f"{'0' * 16}.1.\n"])
def test_what_was_never_given_out_is_no_cursor(tmp_path: Path, cursor: str) -> None:
    """It is refused as such, before anything is read."""
    with pytest.raises(BadCursor):
        page(tmp_path, Wanted(), 1, cursor)
