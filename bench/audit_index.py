"""The index of the ledger: how long a session takes to find among a million records, and what the index costs.

`python -m bench.audit_index [RECORDS]` prints a JSON object; `index_query_ms` is for the benchmark of the ledger. The
log is of lines as the writer makes them, without waiting for the disk: what reading costs does not depend on it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from gateway.audit.content import Mac
from gateway.audit.index import FILE, opened
from gateway.audit.lines import NOWHERE, Lines, Sealing
from gateway.audit.search import page
from gateway.audit.segment import segment_path
from gateway.tool import Json
from gateway.wanted import Wanted

_SEGMENT = 64 << 20
_CALLS = 25  # in a session
_AGENTS, _TOOLS = 40, 12
_KEY = Mac(os.urandom(32))


def write_log(home: Path, records: int, lines: Lines | None = None) -> Lines:
    """Writes so many records to shard `w1`, half intents and half outcomes, in sessions of 25 calls.

    `lines` goes on with a log that an earlier call began.
    """
    folder = home / "audit" / "w1"
    folder.mkdir(parents=True, exist_ok=True)
    lines = lines or Lines("w1", NOWHERE, time.time)
    made, size = iter(_records(lines, records)), _SEGMENT
    file = None
    for line in made:
        if size >= _SEGMENT:
            if file is not None:
                file.close()
            file, size = segment_path(folder, lines.seq - 1).open("ab"), 0
        assert file is not None
        size += file.write(line + b"\n")
    if file is not None:
        file.close()
    return lines


def index_query_ms(home: Path, times: int = 50) -> float:
    """Milliseconds to find the 50 records of one session in a log that is indexed; the median of so many sessions.

    Each time everything: opening the index, looking for what is new, finding, reading the records.
    """
    with opened(home):
        pass
    took = []
    for number in range(times):
        begun = time.perf_counter()
        found = page(home, Wanted(session=f"s_{number * 7:032x}"), 500)
        took.append(1000 * (time.perf_counter() - begun))
        assert len(found.records) == 2 * _CALLS, "the log is too short"
    return median(took)


def measure(records: int) -> dict[str, float]:
    """All figures of the index for a log of so many records."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        lines = write_log(home, records)
        build = _seconds(home)
        size = (home / FILE).stat().st_size
        query = index_query_ms(home)
        updates = []
        for _ in range(5):
            write_log(home, 1000, lines)
            updates.append(_seconds(home))
        log = sum(path.stat().st_size for path in (home / "audit" / "w1").iterdir())
        return {
            "records": records,
            "log_mb": round(log / 1e6, 1),
            "build_s": round(build, 2),
            "size_mb": round(size / 1e6, 1),
            "session_query_ms": round(query, 2),
            "update_1000_ms": round(1000 * median(updates), 1),
        }


def _seconds(home: Path) -> float:
    begun = time.perf_counter()
    with opened(home):
        return time.perf_counter() - begun


def _records(lines: Lines, count: int) -> Iterator[bytes]:
    for _ in range(count // 2):
        n = lines.seq // 2
        call, session = f"c_{n:08x}{os.urandom(12).hex()}", f"s_{n // _CALLS:032x}"
        told: dict[str, Json] = {"call_id": call, "session_id": session, "tenant": "default"}
        told |= {"principal": {"agent": f"agent-{n % _AGENTS}", "user": None}, "tool": {"name": f"tool_{n % _TOOLS}"}}
        decision = {"effect": "permit", "code": None, "rule": None, "rules": [f"rule-{n % _TOOLS}"]}
        yield lines.add("call.intent", told | {"decision": decision, "args_digest": "0" * 64}, _content(session))
        said = {"outcome": {"status": "done", "code": None}, "usage": {"wall_ms": 1.0}, "intent": lines.seq - 1}
        yield lines.add("call.outcome", told | said, _content(session))


def _content(session: str) -> Sealing:
    return Sealing(session, _KEY, b'{"arguments":{"text":"' + b"x" * 150 + b'"}}')


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)))
