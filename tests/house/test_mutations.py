"""The order of the ten stages is held by types: each way to break the line is tried on a copy of `pipeline.py`.

The type checker must refuse all but three of them; those three ordinary tests must catch.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.house.tree import ROOT

PIPELINE = Path("gateway/pipeline.py")
ORDINARY = "tests/gateway/test_pipeline.py"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One way to break the line: replace `old`, which stands there once, by `new`. `tests` are to catch it, where types
    cannot."""

    name: str
    old: str
    new: str
    tests: str = ORDINARY


RESOLVE = "        tool = opened.saw(resolve(request, caller, self.catalogue, bundle))\n"
VALIDATE = "        arguments = validate(request, tool)\n"
EXECUTE = "raw = admitted.gave(await execute(intent, request, self, *outside))"
WITHIN = f"""                    {EXECUTE}
                    opened.mark("execute")
                    safe = opened.saw(await screen(raw, intent, self.screener, self.artifacts))
                    if self.resilience is not None:
                        self.resilience.cache.keep(intent, raw, safe)
                    return admitted.ended(safe)
"""

REFUSED_BY_TYPES = [
    Mutation(
        "authenticate is skipped",
        "await self.authenticate(request.credential, request.session, request.parent)",
        "request.credential",
    ),
    Mutation("resolve is skipped", "resolve(request, caller, self.catalogue, bundle)", "request.tool"),
    Mutation("validate is skipped", "validate(request, tool)", "request.arguments"),
    Mutation("validate comes before resolve", RESOLVE + VALIDATE, VALIDATE + RESOLVE),
    Mutation("decide is skipped", "await approve(decision,", "await approve(call,"),
    Mutation("approve is skipped", "opened.saw(await approve(decision, request, self))", "decision"),
    Mutation("approve is not awaited", "await approve(decision,", "approve(decision,"),
    Mutation("admit is skipped", "opened.saw(lease)", "opened.saw(permit)"),
    Mutation(
        "admit is not entered",
        "async with using(permit, self.approvals), (admitted := admit(permit, claim, *limits)) as lease:",
        "if lease := (admitted := admit(permit, claim, *limits)):",
    ),
    Mutation("the intent is skipped", "execute(intent,", "execute(lease,"),
    Mutation("the intent is not awaited", "await record_intent(", "record_intent("),
    Mutation("execute is not awaited", "await execute(", "execute("),
    Mutation("screen is skipped", "opened.saw(await screen(raw, intent, self.screener, self.artifacts))", "raw"),
    Mutation("no record is opened", "self._run(request, opened)", "self._run(request)"),
    Mutation(
        "no record is closed",
        "await _whole(close_record(opened, result, self.ledger, self.sessions, self.outcomes, self.claims))",
        "result",
    ),
    Mutation(
        "a refusal is answered without a record", "result = opened.refused(refusal)", "return opened.refused(refusal)"
    ),
]
CAUGHT_BY_TESTS = [
    Mutation("execute outside the lease", WITHIN, WITHIN.replace("\n    ", "\n").removeprefix("    ")),
    Mutation(
        "a refusal leaks",
        "        except Refusal as refusal:\n            result = opened.refused(refusal)\n",
        "        except Refusal:\n            raise\n",
    ),
    Mutation(
        "recall is skipped",
        "if claim is not None and (recalled",
        "if False and (recalled",
        "tests/gateway/test_idempotency.py",
    ),
]


@pytest.fixture(scope="session")
def checked(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A copy of the packages that mypy has found clean, with its cache; made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "checked"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            fresh = shared.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            for package in ("gateway", "sandboxes"):
                shutil.copytree(ROOT / package, fresh / package, ignore=shutil.ignore_patterns("__pycache__"))
            found = _mypy(fresh)
            assert found.returncode == 0, found.stdout
            fresh.rename(shared)
    return shared


def _mypy(folder: Path) -> subprocess.CompletedProcess[str]:
    strict = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.11", "--cache-dir", ".cache"]
    return subprocess.run(
        [*strict, str(PIPELINE)], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def _mutate(folder: Path, mutation: Mutation) -> None:
    source = (folder / PIPELINE).read_text()
    assert source.count(mutation.old) == 1, "the mutation no longer fits pipeline.py"
    (folder / PIPELINE).write_text(source.replace(mutation.old, mutation.new))


@pytest.mark.parametrize("mutation", REFUSED_BY_TYPES, ids=lambda mutation: mutation.name)
def test_the_type_checker_refuses_a_broken_line(mutation: Mutation, checked: Path, tmp_path: Path) -> None:
    """`mypy --strict` refuses a pipeline with a stage skipped, swapped or not awaited."""
    folder = tmp_path / "copy"
    shutil.copytree(checked, folder)
    _mutate(folder, mutation)
    found = _mypy(folder)
    assert found.returncode == 1, found.stdout + found.stderr
    assert f"{PIPELINE}:" in found.stdout
    assert "[syntax]" not in found.stdout


@pytest.mark.parametrize("mutation", CAUGHT_BY_TESTS, ids=lambda mutation: mutation.name)
def test_ordinary_tests_catch_what_types_cannot(mutation: Mutation, checked: Path, tmp_path: Path) -> None:
    """The mutations that are well typed make ordinary tests fail."""
    folder = tmp_path / "copy"
    shutil.copytree(checked, folder)
    _mutate(folder, mutation)
    assert _mypy(folder).returncode == 0, "types refuse this one now: it belongs to the others"
    for name in ("tests", "policies", "tool_specs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-x", mutation.tests]
    ran = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 1, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert " failed" in ran.stdout
