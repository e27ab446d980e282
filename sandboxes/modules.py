"""An operator's own WebAssembly programs: registered once, kept and found by their digest.

Registering inspects what a program asks for and compiles it; nothing is compiled in a call. The folder must belong to
us alone, since native code from it is run. Never runs a program, and never loads wasmtime here.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sandboxes.guests.build import Progress, locked
from sandboxes.model import MIB, SandboxUnavailable
from sandboxes.spawn import command

FOLDER: Final = "modules"
MAX_SIZE: Final = 64 * MIB
COMPILE_SECONDS: Final = 600
PREFIX: Final = "sha256:"
HEX: Final = frozenset("0123456789abcdef")
DIGEST_CHARS: Final = 64
# Who imports none of these reaches neither files nor tools.
REACHES: Final = {
    "wasi_snapshot_preview1.path_open": "files",
    "toolgate.call": "calls",
    "local:runner/host": "calls",
}
MAGIC: Final = b"\0asm"
# Whatever is changed in these makes other native code.
ENGINE_SOURCES: Final = tuple(Path(__file__).with_name(name) for name in ("module_engine.py", "wasm_engine.py"))


class ModuleRefused(ValueError):
    """These bytes cannot be registered; the text is a sentence that says why."""


@dataclass(frozen=True, slots=True)
class Module:
    """A registered program. digest: `sha256:…` of its bytes. size: bytes. imports: what it may ask of us.

    cwasm: the file of its native code for this machine, None where that is missing, altered, or made for another one.
    """

    digest: str
    kind: Literal["module", "component"]
    imports: tuple[str, ...]
    size: int
    cwasm: Path | None

    @property
    def uses(self) -> frozenset[str]:
        """What of a job it can reach, by what it imports: its `files`, the `calls` of tools."""
        return frozenset(what for name, what in REACHES.items() if name in self.imports)


def register(folder: Path, program: bytes | Path, progress: Progress = lambda _line: None) -> Module:
    """Inspects, compiles and keeps a program in `folder`, the folder of guests. The same bytes again change nothing.

    Takes from milliseconds to a minute. Raises `ModuleRefused` for a program that cannot run here, naming what it
    imports and is not offered, and `SandboxUnavailable` where the folder is not ours alone or cannot be written.
    """
    content = program if isinstance(program, bytes) else _read(program)
    if not content.startswith(MAGIC):
        raise ModuleRefused("this is not a WebAssembly binary (it does not begin with \\0asm)")
    if len(content) > MAX_SIZE:
        raise ModuleRefused(f"a program has at most {MAX_SIZE} bytes")
    digest = hashlib.sha256(content).hexdigest()
    try:
        place = _place(folder, make=True)
        with locked(place.parent, progress):
            found = _look(place, digest)
            return found if found is not None and found.cwasm is not None else _keep(place, digest, content, progress)
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable(f"the program cannot be kept in {folder}: {error}") from error


def find(folder: Path, digest: str) -> Module | None:
    """The program with this digest (`sha256:…`), None if it was never registered or its bytes are no longer those.

    Raises `SandboxUnavailable` where the folder is not ours alone.
    """
    name = digest.removeprefix(PREFIX)
    if not digest.startswith(PREFIX) or len(name) != DIGEST_CHARS or not HEX.issuperset(name):
        return None
    try:
        return _look(_place(folder), name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SandboxUnavailable(f"the programs in {folder} cannot be read: {error}") from error


def every(folder: Path) -> list[Module]:
    """All programs that `find` would find, by digest. Raises as it does."""
    try:
        names = sorted(path.stem for path in _place(folder).glob("*.json"))
    except FileNotFoundError:
        return []
    return [module for name in names if (module := find(folder, PREFIX + name)) is not None]


def refresh(folder: Path, progress: Progress = lambda _line: None) -> None:
    """Compiles again whatever has no native code for this machine and this version. For a start, never for a call.

    A program that this version refuses stays without; `progress` is told why.
    """
    for module in every(folder):
        if module.cwasm is None:
            try:
                register(folder, _wasm(_place(folder), module.digest.removeprefix(PREFIX)), progress)
            except ModuleRefused as refusal:
                progress(f"{module.digest}: {refusal}")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as source:
            return source.read(MAX_SIZE + 1)
    except OSError as error:
        raise ModuleRefused(f"{path} cannot be read: {error.strerror}") from None


def _place(folder: Path, *, make: bool = False) -> Path:
    folder = folder.expanduser()
    place = folder / FOLDER
    if make:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
    for each in (folder, place):
        found = each.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise SandboxUnavailable(f"{each} must be a folder that only this user can open (owner us, mode 0700)")
    return place


def _look(place: Path, digest: str) -> Module | None:
    try:
        note = json.loads((place / f"{digest}.json").read_text())
        content = _wasm(place, digest).read_bytes()
        kind: Literal["module", "component"] = "component" if note["kind"] == "component" else "module"
        imports = tuple(map(str, note["imports"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if hashlib.sha256(content).hexdigest() != digest:
        return None
    return Module(PREFIX + digest, kind, imports, len(content), _native(place, digest))


def _wasm(place: Path, digest: str) -> Path:
    return place / f"{digest}.wasm"


def _native(place: Path, digest: str) -> Path | None:
    """The file of native code: its name says what it was made from, for which machine, and what its own digest is."""
    for path in place.glob(f"{digest}-{machine_key()}-*.cwasm"):
        if _sha256(path) == path.stem.rpartition("-")[2]:
            return path
    return None


def machine_key() -> str:
    """What native code depends on beside its source: wasmtime, how it is set, and the processor."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))]
    sources = [source.read_text() for source in ENGINE_SOURCES]
    parts = [importlib.metadata.version("wasmtime"), platform.machine(), *cpu[:1], *sources]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _keep(place: Path, digest: str, content: bytes, progress: Progress) -> Module:
    with tempfile.TemporaryDirectory(dir=place, prefix=".build-") as scratch:
        wasm, native, note = (Path(scratch) / name for name in ("program.wasm", "program.cwasm", "note.json"))
        wasm.write_bytes(content)
        progress("compiling the program to native code")
        said = _compile(wasm, native)
        note.write_text(json.dumps({"kind": said["kind"], "imports": said["imports"], "size": len(content)}))
        for file in (wasm, native, note):
            file.chmod(0o600)
        kept = place / f"{digest}-{machine_key()}-{_sha256(native)}.cwasm"
        native.rename(kept)
        # After that: whoever looks meanwhile finds one or the other.
        for stale in set(place.glob(f"{digest}-{machine_key()}-*.cwasm")) - {kept}:
            stale.unlink(missing_ok=True)
        wasm.rename(_wasm(place, digest))
        # The note goes last: it is what makes the program a registered one.
        note.rename(place / f"{digest}.json")
    found = _look(place, digest)
    if found is None:
        raise SandboxUnavailable(f"the program kept in {place} does not match its own digest")
    return found


def _compile(wasm: Path, native: Path) -> dict[str, object]:
    argv = command("sandboxes.module_engine", str(wasm), str(native))
    done = subprocess.run(
        argv, cwd=wasm.parent, env={}, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
    )
    if done.returncode != 0:
        raise ModuleRefused(f"the compiler ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    said: dict[str, object] = json.loads(done.stdout)
    if "refused" in said:
        raise ModuleRefused(f"the program cannot be registered: {said['refused']}")
    return said
