"""What code may not do, each with the few places where it must, and why."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from tests.house.tree import called, functions, imported, nodes, sources, text, tree

# These run inside the sandbox: their whole purpose is to run what they are given.
GUEST = "sandboxes/guests/python/prelude.py"
CHILD = "sandboxes/images/inside/child.py"

BROAD = {
    "gateway/pipeline.py": "the pipeline's edge: whatever happened is an outcome on record",
    "gateway/doors/edge.py": "the door's edge: a fault of ours becomes a typed answer",
    "gateway/fresh.py": "a background loop that must outlive one bad look",
    "gateway/stores/redis_epoch.py": "a background loop that must outlive one bad read of the ledger",
    "gateway/retention.py": "a background loop that must outlive one bad look",
    "gateway/identity/authority.py": "whatever went wrong while a credential was judged, nobody is let in by it",
    "gateway/identity/leases.py": "a background loop: one bad look must not end it",
    "gateway/history.py": "a background loop that must outlive one bad read",
    "gateway/audit/heads.py": "a background loop that must outlive one bad sink",
    "gateway/stores/sqlite_commits.py": "the thread that commits: whoever waits for it must be told",
    "gateway/stores/redis_news.py": "a background loop that must outlive one bad entry",
    "gateway/live.py": "a background loop that must outlive one bad policy",
    "gateway/audit/writer.py": "the writer thread: when it dies, those who wait must be refused",
    CHILD: "the snippet may raise anything, and so may the text of its error",
    GUEST: "the snippet may raise anything, and so may the text of its error",
    "sandboxes/guests/python/story.py": "the text of a snippet's error may raise anything",
    "sandboxes/guests/python/loop.py": "what a snippet submits may raise anything, which its future keeps",
}
# File → why an import inside a function pays there.
LATE_IMPORTS = {CHILD: "an idle container does without what only a failing snippet needs"}

# The type that proves a stage ran → the one file that makes it.
MADE_IN = {
    "Caller": "gateway/stages/authenticate.py",
    "Permit": "gateway/stages/approve.py",
    "Lease": "gateway/stages/admit.py",
    "Intent": "gateway/stages/record.py",
    "Parent": "gateway/stages/execute.py",
    "SafeOutput": "gateway/stages/screen.py",
    "Outcome": "gateway/stages/record.py",
}
# The cases of a policy are decided for callers they invent, and the past is counted for those that are on record;
# nothing runs and nothing is answered.
INVENTED = {"Caller": {"gateway/policy/cases.py", "gateway/history.py"}}
COPIERS = {"replace", "copy", "deepcopy", "__new__", "_replace"}  # ways to make one without naming its type

VAGUE = {"manager", "service", "handler", "helper", "util", "utils", "context", "data", "info"}


def test_a_module_says_what_it_is() -> None:
    """Every module with code in it has a docstring."""
    assert [str(p) for p in sources() if tree(p).body and not ast.get_docstring(tree(p))] == []


def test_a_file_is_named_by_what_it_is() -> None:
    """No file or folder has a name that says nothing."""
    assert [str(p) for p in sources() if VAGUE.intersection(p.with_suffix("").parts)] == []


def test_nothing_is_global() -> None:
    """No function rebinds a global."""
    assert [f"{p}:{n.lineno}" for p in sources() for n in nodes(p, ast.Global)] == []


def test_broad_excepts_stand_at_edges_with_a_reason() -> None:
    """`except Exception` and broader stand in the listed files with a reason, unless they clean up and raise on."""
    for path in sources():
        lines = text(path).splitlines()
        for node in nodes(path, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "BaseException"
            raises_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if caught in {"Exception", "BaseException"} and not raises_on:
                assert str(path) in BROAD, f"{path}:{node.lineno}"
                assert "  # " in lines[node.lineno - 1], f"{path}:{node.lineno} gives no reason"


def test_imports_stand_at_the_top() -> None:
    """No function imports anything, so that no call pays for an import."""
    late = [
        f"{path}:{node.lineno}"
        for path in sources()
        if str(path) not in LATE_IMPORTS
        for function in functions(path)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert late == []


def test_a_proof_is_made_in_one_file() -> None:
    """A type that proves that a stage ran is constructed by that stage, so holding one is proof."""
    makers: defaultdict[str, set[str]] = defaultdict(set)
    for path in sources("gateway"):
        for call in nodes(path, ast.Call):
            name = called(call).rpartition(".")[2]
            if name in MADE_IN and str(path) not in INVENTED.get(name, ()):
                makers[name].add(str(path))
    assert makers == {name: {place} for name, place in MADE_IN.items()}


def test_a_proof_is_never_copied() -> None:
    """Where proofs pass, no frozen value is copied with changes: that could make a proof nobody gave.

    Screening, which makes `SafeOutput` itself, copies findings and problems.
    """
    guarded = [p for p in sources("gateway") if p.parts[1] in {"stages", "doors", "pipeline.py"}]
    guarded.remove(Path("gateway/stages/screen.py"))
    copied = [
        f"{path}:{call.lineno} {called(call)}"
        for path in guarded
        for call in nodes(path, ast.Call)
        if called(call).rpartition(".")[2] in COPIERS and not (call.args and isinstance(call.args[0], ast.Constant))
    ]
    assert copied == []


def test_nothing_runs_text_or_revives_objects() -> None:
    """Text is run and objects are revived (`exec`, `pickle` and their kin) in the guest alone."""
    running = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
    reviving = {"pickle", "marshal", "shelve", "dill", "ctypes.pythonapi"}
    found = [f"{p}:{c.lineno} {called(c)}" for p in sources() for c in nodes(p, ast.Call) if called(c) in running]
    found += [f"{p} {name}" for p in sources() for name in imported(p) if name in reviving]
    assert [line for line in found if not line.startswith((GUEST, CHILD))] == []


def test_only_the_command_line_prints() -> None:
    """Nothing in the gateway prints but `gateway/cli/`."""
    printing = {str(p) for p in sources("gateway") for c in nodes(p, ast.Call) if called(c) == "print"}
    assert {p for p in printing if not p.startswith("gateway/cli/")} == set()


def test_every_test_states_a_fact() -> None:
    """Every test function has a docstring."""
    silent = [
        f"{path}:{function.lineno} {function.name}"
        for path in sources("tests")
        if path.name.startswith("test_")
        for function in functions(path)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert silent == []


def test_tests_patch_nothing_of_ours() -> None:
    """Fakes go in through ports and parameters: no test patches a module of ours."""
    patching = []
    for path in [p for p in sources("tests") if p != Path("tests/house/test_shape.py")]:
        for call in nodes(path, ast.Call):
            name = called(call)
            if name.startswith(("mock.patch", "patch.object")) or name in {"monkeypatch.setattr", "patch"}:
                patching.append(f"{path}:{call.lineno}")
        patching += [f"{path} imports mock" for name in imported(path) if name.startswith("unittest.mock")]
    assert patching == []
