"""Who may know whom: floors import only downward, each library has one importer, sockets are opened in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house.tree import called, imported, module, nodes, sources

# The longest prefix counts. A new module without a floor of its own or of its folder fails the first test.
FLOOR = {
    "gateway.__version__": 0,
    "gateway.accounts": 0,
    "gateway.admission": 0,
    "gateway.aggregates": 0,
    "gateway.allow": 0,
    "gateway.artifacts": 0,
    "gateway.display": 0,
    "gateway.lifetimes": 0,
    "gateway.mirrors": 0,
    "gateway.model": 0,
    "gateway.ledger_ports": 0,
    "gateway.ports": 0,
    "gateway.problems": 0,
    "gateway.regex": 0,
    "gateway.strictjson": 0,
    "gateway.tool": 0,
    "gateway.globs": 0,
    "gateway.obligations": 0,
    "gateway.parked": 0,
    "gateway.units": 0,
    "gateway.urls": 0,
    "gateway.wanted": 0,
    "gateway.work": 0,
    "gateway.audit.chain": 1,
    "gateway.policy": 1,
    "gateway.reliability": 1,
    "gateway.screening": 1,
    "gateway.specs": 1,
    "gateway.audit": 2,
    "gateway.identity": 2,
    "gateway.runners": 2,
    "gateway.stores": 2,
    "gateway.telemetry": 2,
    "gateway.stages": 3,
    "gateway.pipeline": 4,
    "gateway.doors": 5,
    "gateway.app": 6,
    "gateway.case_files": 6,
    "gateway.cases": 6,
    "gateway.backends": 6,
    "gateway.bounds": 6,
    "gateway.cli": 6,
    "gateway.doctor": 6,
    "gateway.doctor_identity": 6,
    "gateway.doctor_store": 6,
    "gateway.explaining": 6,
    "gateway.failing": 6,
    "gateway.folders": 6,
    "gateway.fresh": 6,
    "gateway.heads": 6,
    "gateway.history": 6,
    "gateway.home": 6,
    "gateway.kept": 6,
    "gateway.live": 6,
    "gateway.notices": 6,
    "gateway.loading": 6,
    "gateway.recounting": 6,
    "gateway.replay": 6,
    "gateway.rerun": 6,
    "gateway.reseeding": 6,
    "gateway.retention": 6,
    "gateway.settings": 6,
    "gateway.sharing": 6,
    "gateway.settling": 6,
    "gateway.storage": 6,
    "gateway.suggest": 6,
    "gateway.callers": 6,
    "gateway.credentials": 6,
    "gateway.declared": 6,
    "gateway.simulate": 6,
    "gateway.trial": 6,
    "gateway.upkeep": 6,
}

# Which files may import a library: a file, or a folder ending in a slash.
IMPORTERS = {
    "aiohttp": (),
    "authlib": ("gateway/identity/oauth.py",),
    "cel_expr_python": ("gateway/policy/engine.py",),
    "docker": ("sandboxes/engine.py", "sandboxes/images/build.py"),
    "cryptography": ("gateway/audit/", "gateway/identity/"),
    "fastapi": ("gateway/doors/", "gateway/app.py"),
    "joserfc": ("gateway/identity/tokens.py",),
    "idna": ("gateway/urls.py",),
    "httptools": ("gateway/runners/http1.py",),
    "jsonschema": (),
    "jsonschema_rs": ("gateway/specs/schema.py",),
    "google.protobuf": ("gateway/policy/messages.py",),
    "pybreaker": ("gateway/reliability/breaker.py",),
    "redis": (),
    "hiredis": ("gateway/stores/resp.py",),
    "pydantic": (
        "gateway/specs/",
        "gateway/policy/",
        "gateway/bounds.py",
        "gateway/declared.py",
        "gateway/settings.py",
        "gateway/doors/admin.py",
        "gateway/doors/approvals.py",
        "gateway/doors/bodies.py",
        "gateway/doors/budgets.py",
        "gateway/doors/explaining.py",
        "gateway/doors/past.py",
        "gateway/doors/records.py",
        "gateway/doors/sessions.py",
    ),
    "re2": ("gateway/regex.py",),
    "starlette": ("gateway/doors/", "gateway/app.py"),
    "uvicorn": ("gateway/doors/server.py",),
    "uvloop": ("gateway/cli/serve.py",),
    "wasmtime": (
        "sandboxes/js_build.py",
        "sandboxes/js_guest.py",
        "sandboxes/js_vm.py",
        "sandboxes/module_engine.py",
        "sandboxes/module_guest.py",
        "sandboxes/python_guest.py",
        "sandboxes/wasm_engine.py",
        "sandboxes/worker.py",
    ),
    "yaml": ("gateway/specs/yaml.py",),
    # of the standard library, what has one place as well
    "sqlite3": (
        "gateway/stores/sqlite.py",
        "gateway/stores/sqlite_approvals.py",
        "gateway/stores/sqlite_commits.py",
        "gateway/stores/sqlite_counters.py",
        "gateway/stores/sqlite_sessions.py",
        "gateway/audit/index.py",
        "gateway/audit/keystore.py",
        "gateway/audit/search.py",
        "gateway/audit/writer.py",
        "gateway/cli/rerun.py",  # its exceptions, which the key store lets through
        "gateway/replay/opened.py",  # its exceptions, which the key store and the stores let through
        "gateway/replay/session.py",  # the same
        "gateway/simulate/run.py",  # its exceptions, which the key store lets through
        "gateway/storage.py",  # the same
        "gateway/suggest/run.py",  # the same
        "gateway/upkeep.py",
        "gateway/settling.py",
    ),
    "ssl": ("gateway/runners/net.py", "gateway/stores/resp.py"),
    "subprocess": (
        "sandboxes/guests/build.py",
        "sandboxes/images/build.py",
        "sandboxes/link.py",
        "sandboxes/modules.py",
        "sandboxes/wasm.py",
    ),
    "multiprocessing": (),
    "requests": ("sandboxes/images/build.py",),  # its exceptions, which the Docker SDK lets through
    "httpx": (),
    "urllib.request": (),
    "http.client": ("gateway/cli/call.py",),  # a client of the gateway, not the gateway
}
# Patterns of our own over our own text. What comes from outside goes through `gateway/regex.py`.
OWN_PATTERNS = ("gateway/audit/verify.py", "sandboxes/guests/python/")

DIALLING = ("create_connection", "open_connection", "sock_connect", "create_datagram_endpoint", "getaddrinfo")
# The outward client; and the one address that is the operator's own, from the settings: no spec and no caller names it.
DIALLERS = ("gateway/runners/net.py", "gateway/stores/resp.py")


def _floor(name: str) -> int | None:
    while name and name not in FLOOR:
        name = name.rpartition(".")[0]
    return FLOOR.get(name)


def _ours(path: Path) -> list[str]:
    return sorted(name for name in imported(path) if name.split(".")[0] == "gateway" and name != "gateway.__version__")


def _allowed(path: Path, places: tuple[str, ...]) -> bool:
    return any(str(path).startswith(place) if place.endswith("/") else str(path) == place for place in places)


@pytest.mark.parametrize("path", [p for p in sources("gateway") if module(p) != "gateway"], ids=str)
def test_a_module_imports_only_downward(path: Path) -> None:
    """No module imports a floor above its own, and every module has a floor."""
    own = _floor(module(path))
    assert own is not None, f"{path} has no floor: put it in FLOOR"
    above = {name: _floor(name) for name in _ours(path) if (_floor(name) or 0) > own}
    assert above == {}


def test_stages_meet_stores_and_runners_through_ports() -> None:
    """A stage imports floors 0 and 1 and the other stages, nothing that touches the outside."""
    seen = {f"{p}: {name}" for p in sources("gateway/stages") for name in _ours(p) if _floor(name) == 2}
    assert seen == set()


def test_doors_see_the_pipeline_and_nothing_below_it_but_nouns() -> None:
    """A door imports neither a stage nor a store nor a runner."""
    seen = {f"{p}: {name}" for p in sources("gateway/doors") for name in _ours(p) if _floor(name) in (2, 3)}
    assert seen == set()


def test_what_is_pure_does_no_input_or_output() -> None:
    """Floors 0 and 1 open no socket, start no program and read no clock."""
    outside = {"socket", "subprocess", "asyncio", "sqlite3", "time", "threading", "random", "secrets", "http"}
    impure = {
        f"{path}: {name}"
        for path in sources("gateway")
        if _floor(module(path)) in (0, 1)
        for name in imported(path)
        if name.split(".")[0] in outside
    }
    assert impure == set()


def test_sandboxes_know_nothing_of_the_gateway() -> None:
    """The sandboxes can be used alone: they import nothing of the gateway."""
    assert {str(p) for p in sources("sandboxes") for name in imported(p) if name.split(".")[0] == "gateway"} == set()


def test_one_runner_knows_the_sandboxes() -> None:
    """Below the top floor, which puts things together, only the sandbox runner imports `sandboxes`."""
    knows = {
        str(path)
        for path in sources("gateway")
        for name in imported(path)
        if name.split(".")[0] == "sandboxes" and _floor(module(path)) != 6
    }
    assert knows == {"gateway/runners/sandboxed.py"}


@pytest.mark.parametrize("library", sorted(IMPORTERS))
def test_a_library_has_one_importer(library: str) -> None:
    """A library is imported where the map says and nowhere else, so that swapping it touches one place."""
    importers = {
        str(path)
        for path in sources()
        for name in imported(path)
        if (name == library or name.startswith(f"{library}.")) and not _allowed(path, IMPORTERS[library])
    }
    assert importers == set()


def test_python_patterns_never_meet_untrusted_text() -> None:
    """Python's own `re`, which backtracks, is imported only where the text is our own."""
    assert {str(p) for p in sources() if "re" in imported(p) and not _allowed(p, OWN_PATTERNS)} == set()


def test_the_one_client_opens_every_outward_connection() -> None:
    """Connecting and resolving names happen in `runners/net.py`; `stores/resp.py` connects to the setting `store`."""
    dialled = {
        f"{path}:{call.lineno} {called(call)}"
        for path in sources()
        if not _allowed(path, DIALLERS)
        for call in nodes(path, ast.Call)
        if called(call).rpartition(".")[2] in DIALLING
    }
    assert dialled == set()


def test_no_middleware() -> None:
    """Authentication and authorization are stages: nothing uses a framework's middleware."""
    names = {"BaseHTTPMiddleware", "middleware", "add_middleware"}
    used = {f"{p}:{n.lineno}" for p in sources() for n in nodes(p, ast.Attribute) if n.attr in names}
    assert used == set()
