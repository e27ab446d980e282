"""A whole simulation: the ledger of a home folder, gone through once under the policies of then and a candidate.

The ledger is verified first: what was altered says nothing. It takes no lock and writes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from gateway.audit import query
from gateway.audit.glance import glance
from gateway.audit.verify import segments, whole_lines
from gateway.home import Home
from gateway.kept import NotKept, load_kept
from gateway.policy.bundle import PolicyBundle
from gateway.simulate.recorded import UNLIKE, Closed, Reader, Unasked
from gateway.simulate.replay import Replay
from gateway.simulate.report import Report
from gateway.tool import Tool

_MARK = b'"bundle_digest":"'
_DIGEST = len("sha256:") + 64


class Unverified(Exception):
    """The ledger cannot be gone by: it does not verify, or cannot be read; the text says what is wrong with it."""


def simulate(home: Path, candidate: PolicyBundle, tools: Sequence[Tool], since: float = 0.0) -> Report:
    """Every call on record since then (unix seconds), decided again under its own policy and under the candidate.

    `tools` are those of the specs. Calls from before are read as far as they still count, for rates and declared state.
    Raises `Unverified`.
    """
    if why := query.unverified(home):
        raise Unverified(why)
    report, bundles = Report(candidate.digest), _bundles(home, tools)
    begin, replay = since - _reach(candidate, bundles), Replay(candidate, bundles, since)
    try:
        with glance(home) as contents:
            _run(query.since(home, begin), Reader(contents, tools), replay, report, since)
        report.elsewhere = query.elsewhere(home, begin)
    except (sqlite3.Error, OSError, ValueError) as error:
        raise Unverified(f"{home}: cannot be read: {error}") from error
    return report


def _run(records: Iterable[query.Record], reader: Reader, replay: Replay, report: Report, since: float) -> None:
    for record in records:
        try:
            said = reader.read(record)
        except ValueError:
            report.skip(UNLIKE)
            continue
        if isinstance(said, Closed):
            replay.close(said)
        elif isinstance(said, Unasked):
            report.unasked += said.at >= since
        elif said is not None:
            found = replay.take(said)
            if isinstance(found, str):
                report.skip(found)
            elif found is not None:
                report.add(found)


def _bundles(home: Path, tools: Sequence[Tool]) -> Mapping[str, PolicyBundle | None]:
    """The policies that calls on record were decided by, by digest; None for one that cannot be had."""
    found: dict[str, PolicyBundle | None] = {}
    for digest in sorted(_digests(home)):
        try:
            found[digest] = load_kept(Home(home), digest, tools)
        except NotKept:
            found[digest] = None
    return found


def _digests(home: Path) -> set[str]:
    """The digests of policies in all records, found without reading the records."""
    found: set[str] = set()
    for line in (line for shard in query.shards(home) for path in segments(shard) for line in whole_lines(path)):
        at = line.find(_MARK)
        if at >= 0:
            found.add(line[at + len(_MARK) : at + len(_MARK) + _DIGEST].decode(errors="replace"))
    return found


def _reach(candidate: PolicyBundle, bundles: Mapping[str, PolicyBundle | None]) -> float:
    """Seconds for which a call still counts under one of the policies."""
    reach = 0.0
    for bundle in (candidate, *bundles.values()):
        if bundle is not None:
            reach = max(reach, *_spans(bundle), 0.0)
    return reach


def _spans(bundle: PolicyBundle) -> Iterator[float]:
    yield from bundle.windows.values()
    yield from (limit.rate.per for rule in bundle.rules.values() for limit in rule.obligations.limits)
    yield from (tool.rate.per for tool in bundle.tools.values() if tool.rate)
