"""`make bench`: what one fully checked, durably recorded call costs, beside a bare framework on the same machine.

Prints a table and writes `bench-results.json`. CPU time per call is the figure to trust; rates and waiting times move
with whatever else the machine does, and so only their ratios within one run mean anything. Exit 1 when a count is
wrong: every call must be answered rightly, reach the upstream once, and stand in the ledger with intent and outcome.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import admission, admission_redis, identity, policy, sandboxes, simulate
from bench import ledger as ledgers
from bench.load import cpu_of, rss_of
from bench.started import ROOT, Started, asgi, gateway

CALLS, WARM, ROUNDS = 3000, 1000, 5
ALONE, ALONE_WARM = 400, 100  # calls with one connection
SIMULATED = 4000  # calls
SAID = "hello {n}, this is the text of an ordinary call: some words, a number or two like 1972, and the name of a file"
BODY = json.dumps({"arguments": {"text": f"{SAID} such as notes/today.txt, as agents send them all day long."}})
EXPECT = "hello {n}, this is the text"
Report = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `ratio` is value over baseline."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to load: a server, the path to post to, the key to send, and what a good answer holds besides."""

    server: Started
    path: str = "/echo"
    expect: tuple[str, ...] = (EXPECT,)

    def load(self, connections: int, calls: int, warm: int) -> dict[str, float]:
        """Runs the generator against it in a process of its own."""
        argv = [sys.executable, "-m", "bench.load", "--port", str(self.server.port), "--path", self.path]
        argv += ["--body", BODY, "-c", str(connections), "--calls", str(calls), "--warm", str(warm)]
        argv += ["--pid", str(self.server.pid), *(f"--expect={each}" for each in self.expect)]
        if self.server.key:
            argv += ["--header", f"authorization: Bearer {self.server.key}"]
        said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout
        report: dict[str, float] = json.loads(said)
        if report["errors"]:
            raise SystemExit(f"{self.path} on port {self.server.port}: {report}")
        return report


def best(reports: list[dict[str, float]], key: str) -> float:
    """The best of several rounds: least for times, most for rates."""
    found = [report[key] for report in reports]
    return max(found) if key == "rate" else min(found)


def alternate(subjects: Mapping[str, Subject], connections: int, calls: int, warm: int) -> dict[str, dict[str, float]]:
    """Loads each in turn, several times round, so that a slow moment of the machine does not hit one of them alone."""
    rounds = [{name: each.load(connections, calls, warm) for name, each in subjects.items()} for _ in range(ROUNDS)]
    keys = ("cpu_us", "rate", "p50_ms", "p99_ms")
    return {name: {key: best([each[name] for each in rounds], key) for key in keys} for name in subjects}


def ledger(home: Path) -> Counter[str]:
    """How many records of each type the ledger holds."""
    lines = (line for file in (home / "audit").rglob("*.jsonl") for line in file.read_bytes().splitlines())
    return Counter(json.loads(line)["type"] for line in lines if line.startswith(b"{"))


def serve_and_load() -> list[Figure]:
    """Everything that goes through HTTP."""
    with asgi("bench.upstream:app") as upstream, gateway(upstream.port) as ours:
        start_cpu, rss = cpu_of(ours.pid), rss_of(ours.pid)
        checked = Subject(ours, "/v1/tools/echo/call", (EXPECT, '"status":"done"'))
        with asgi("bench.echoes:bare") as bare, asgi("bench.echoes:raw") as raw:
            direct = Subject(upstream)
            others = {"fastapi": Subject(bare), "raw": Subject(raw), "direct": direct}
            busy = alternate({"ours": checked, **others}, 64, CALLS, WARM)
            alone = alternate({"ours": checked, "direct": direct}, 1, ALONE, ALONE_WARM)
        calls = ROUNDS * (CALLS + WARM + ALONE + ALONE_WARM)
        _honest(ours, upstream, calls)
        figures = _figures(busy, alone)
        return [*figures, Figure("start_cpu", round(start_cpu, 2), "s"), Figure("start_rss", round(rss / 2**20), "MiB")]


def _honest(ours: Started, upstream: Started, calls: int) -> None:
    """Every call was answered, reached the upstream once, and has its two records."""
    count = upstream.get("/count")
    reached = count["count"] - calls if isinstance(count, dict) else -1  # the same number went there directly
    records = ledger(ours.home) if ours.home else Counter()
    seen = {"calls": calls, "upstream": reached, "intents": records["call.intent"], "outcomes": records["call.outcome"]}
    print(f"checked: {seen}")
    if len(set(seen.values())) != 1:
        raise SystemExit("the counts differ")


def _figures(busy: Mapping[str, Report], alone: Mapping[str, Report]) -> list[Figure]:
    ours, fastapi, raw, direct = (busy[name] for name in ("ours", "fastapi", "raw", "direct"))
    one, one_direct = alone["ours"], alone["direct"]
    return [
        _over("http_call_c64_cpu", ours["cpu_us"], "µs/call", fastapi["cpu_us"]),
        _over("http_call_c64_rate", ours["rate"], "calls/s", direct["rate"]),
        _over("http_call_c64_p50", ours["p50_ms"], "ms", direct["p50_ms"]),
        _over("http_call_c64_p99", ours["p99_ms"], "ms", ours["p50_ms"]),
        _over("http_call_c1_p50", one["p50_ms"], "ms", one_direct["p50_ms"]),
        Figure("http_call_c1_p50_added", round(one["p50_ms"] - one_direct["p50_ms"], 3), "ms"),
        _over("http_call_c1_cpu", one["cpu_us"], "µs/call", one_direct["cpu_us"]),
        _over("fastapi_echo_c64_cpu", fastapi["cpu_us"], "µs/call", raw["cpu_us"]),
        _over("fastapi_echo_c64_rate", fastapi["rate"], "calls/s", raw["rate"]),
        _over("raw_echo_c64_cpu", raw["cpu_us"], "µs/call", direct["cpu_us"]),
        Figure("direct_c64_rate", direct["rate"], "calls/s"),
    ]


def sandboxed() -> list[Figure]:
    """Fresh sandboxes beside a bare `python3` and a cold container; what they cost idle, overrun and scale to."""
    found = sandboxes.measure()
    bare = found["bare_python_p50"]
    figures = [
        *(_over(name, found[name], "ms", bare) for name in ("wasm_python_p50", "wasm_python_p95")),
        *(Figure(name, round(found[name], 3), "ms") for name in ("wasm_js_p50", "wasm_js_p95")),
        Figure("wasm_parked", found["parked_kib"], "KiB"),
        *(Figure(name, round(found[name], 1), "ms") for name in ("overshoot_loop", "overshoot_blocked")),
        _over("wasm_workers_2_rate", found["workers_2_rate"], "runs/s", found["workers_1_rate"]),
    ]
    if "docker_cold_p50" in found:
        cold = found["docker_cold_p50"]
        figures += [_over(name, found[name], "ms", cold) for name in ("docker_warm_p50", "docker_warm_p95")]
        figures += [_over("wasm_python_over_docker", found["wasm_python_p50"], "ms", cold)]
        figures += [Figure("docker_idle", round(found["docker_idle"], 1), "MiB")]
    return figures


def decided() -> list[Figure]:
    """Decisions with 10, 1,000 and 10,000 rules loaded, ten of which the call meets in each case."""
    found = policy.measure()
    least = found["decide_10"]
    return [
        *(_over(f"policy_decide_{size}", found[f"decide_{size}"], "µs", least) for size in policy.SIZES),
        _over("policy_decide_state", found["decide_state"], "µs", least),
        Figure("policy_decide_p99", round(found["decide_p99"], 1), "µs"),
        Figure("policy_load_1000", round(found["load_1000"], 3), "s"),
        Figure("policy_memory_growth", round(found["memory_growth"]), "KiB"),
    ]


def identified() -> list[Figure]:
    """Tokens, seen before and new."""
    found = identity.measure()
    cached = Figure("token_cached", round(found.pop("cached"), 2), "µs")
    return [cached, *(Figure(f"token_{name.lower()}", round(value, 1), "µs") for name, value in found.items())]


def recorded() -> list[Figure]:
    """Intent and outcome through the writer's own API, no gateway around it; a long log beside a short one."""
    found = ledgers.measure()
    rates = ("calls_c1_rate", "calls_c32_rate", "calls_c256_rate")
    return [
        *(
            Figure(f"ledger_pair_c{callers}_p50", round(found[f"pair_c{callers}_p50"], 3), "ms")
            for callers in (1, 32, 256)
        ),
        *(Figure(f"ledger_{name}", round(found[name]), "calls/s") for name in rates),
        Figure("ledger_call_cpu", round(found["call_cpu"], 1), "µs/call"),
        _over("ledger_append_1m", found["append_long"], "µs", found["append_short"]),
        *(Figure(f"ledger_{name}", round(found[name]), "rec/s") for name in ("verify_rate", "verify_small_rate")),
        Figure("ledger_index_1m", round(found["index_long"], 1), "s"),
        Figure("ledger_session_1m", round(found["session_long"], 2), "ms"),
    ]


def decided_again() -> list[Figure]:
    """Recorded calls under another policy: verified, read, decided twice."""
    found = simulate.measure(SIMULATED)
    each = {name: 1e6 * found[f"{name}_cpu"] / SIMULATED for name in ("open", "whole")}
    return [
        Figure("simulate_read_cpu", round(each["open"], 1), "µs/call"),
        _over("simulate_cpu", each["whole"], "µs/call", each["open"]),
    ]


def admitted() -> list[Figure]:
    """What a store adds to counting in memory, 64 calls at once; with Redis where there is a server."""
    with_redis = shutil.which("redis-server") is not None
    found = admission_redis.with_redis(admission.run) if with_redis else admission.run()
    return [
        Figure(f"admission_{name}_added", round(micros - found[f"memory_{name.rpartition('_')[2]}"], 1), "µs/call")
        for name, micros in found.items()
        if not name.startswith("memory_")
    ]


def _over(name: str, value: float, unit: str, baseline: float) -> Figure:
    return Figure(name, round(value, 3), unit, round(baseline, 3), round(value / baseline, 4) if baseline else None)


def main() -> None:
    """Measures, prints, writes."""
    figures = [*serve_and_load(), *admitted(), *recorded(), *decided(), *decided_again(), *identified(), *sandboxed()]
    print(f"{'name':26} {'value':>10} {'unit':8} {'baseline':>10} {'ratio':>8}")
    for each in figures:
        baseline, ratio = ("-" if number is None else f"{number:g}" for number in (each.baseline, each.ratio))
        print(f"{each.name:26} {each.value:>10g} {each.unit:8} {baseline:>10} {ratio:>8}")
    (ROOT / "bench-results.json").write_text(json.dumps([asdict(each) for each in figures], indent=1) + "\n")


if __name__ == "__main__":
    main()
