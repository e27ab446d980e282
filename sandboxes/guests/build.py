"""Builds the guests once and keeps them: source → WebAssembly (`.wasm`) → native code (`.cwasm`).

The folder must belong to us alone, since native code from it is run. Every file appears whole under its final name or
not at all, and is checked against the digest written beside it. Never runs a guest, and never loads wasmtime here.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandboxes.model import SandboxUnavailable
from sandboxes.spawn import command

Progress = Callable[[str], None]

HERE: Final = Path(__file__).parent
SOURCE: Final = HERE / "python"
FILES: Final = ("prelude.py", "world.py", "folder.py", "files.py", "calls.py", "story.py", "loop.py", "runner.wit")
ENGINE_SOURCE: Final = HERE.parent / "wasm_engine.py"
JS_SOURCE: Final = HERE / "js"
JS_FILES: Final = ("inspect.js", "web.js", "url.js", "run.js")
JS_BUILD: Final = HERE.parent / "js_build.py"
JS_VM: Final = HERE.parent / "js_vm.py"
QUICKJS: Final = JS_SOURCE / "quickjs.wasm"
# quickjs.wasm of the npm package quickjs-wasi 3.6.2, byte for byte.
QUICKJS_SHA256: Final = "d4c9375f2b1ca4dc95f72c8aa2982a7a9951ac8011490d79c6582df732b4bbd9"
DEFAULT_FOLDER: Final = "~/.cache/toolgate/guests"
BUILD_SECONDS: Final = 600
UNUSED_SECONDS: Final = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class BuiltGuest:
    """A guest ready to load. wasm_sha256 names it in records; cwasm is a file of native code for this machine."""

    wasm: Path
    cwasm: Path
    wasm_sha256: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one guest is made. key: names its sources. engine: our files that decide what the native code is like.

    make: writes the WebAssembly. program: our module that compiles it, given the two paths.
    """

    name: str
    key: Callable[[], str]
    make: Callable[[Path, Progress], None]
    program: str
    engine: tuple[Path, ...]


def ensure(folder: Path, progress: Progress = lambda _line: None) -> BuiltGuest:
    """The Python guest in `folder`, built if it is missing, altered, or made for other versions or another CPU.

    Takes well under a second when nothing is to do, else 15 to 60 s; two of them at once wait for each other. Blocks:
    an event loop calls it in a thread. Raises `SandboxUnavailable` with the reason.
    """
    return _ensure(PYTHON, folder, progress)


def ensure_js(folder: Path, progress: Progress = lambda _line: None) -> BuiltGuest:
    """As `ensure`, for the JavaScript guest: QuickJS with our own prelude in it, about 5 s when it is to be built."""
    return _ensure(JAVASCRIPT, folder, progress)


def _ensure(recipe: Recipe, folder: Path, progress: Progress) -> BuiltGuest:
    try:
        return _built(recipe, folder.expanduser(), progress)
    except (OSError, subprocess.SubprocessError, importlib.metadata.PackageNotFoundError) as error:
        raise SandboxUnavailable(f"the {recipe.name} guest cannot be built in {folder}: {error}") from error


def _built(recipe: Recipe, folder: Path, progress: Progress) -> BuiltGuest:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(folder)
    wasm = folder / f"{recipe.name.lower()}-{recipe.key()}.wasm"
    built = _valid_pair(wasm, recipe)
    if built is not None:
        return built
    with locked(folder, progress):
        if not _valid(wasm):
            _publish(wasm, lambda target: recipe.make(target, progress))
        cwasm = _cwasm_path(wasm, recipe)
        if not _valid(cwasm):
            _publish(cwasm, lambda target: _compile(recipe, wasm, target, progress))
        _remove_unused(folder)
    built = _valid_pair(wasm, recipe)
    if built is None:
        raise SandboxUnavailable(f"the guest built in {folder} does not match its own digest")
    return built


def _remove_unused(folder: Path) -> None:
    """Every change of source, version or processor leaves some 60 MB: what no start looked at for a week goes."""
    for recipe in (PYTHON, JAVASCRIPT):
        for note in folder.glob(f"{recipe.name.lower()}-*.sha256"):
            if time.time() - note.stat().st_mtime > UNUSED_SECONDS:
                note.with_name(note.name.removesuffix(".sha256")).unlink(missing_ok=True)
                note.unlink(missing_ok=True)


def _check_private(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SandboxUnavailable(f"{folder} must be a folder that only this user can open (owner us, mode 0700)")


def _source_key(first: str, files: Iterable[Path]) -> str:
    digest = hashlib.sha256(first.encode())
    for file in files:
        digest.update(b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _python_key() -> str:
    return _source_key(importlib.metadata.version("componentize-py"), (SOURCE / name for name in FILES))


def _js_key() -> str:
    ours = (JS_BUILD, JS_VM, HERE / "snapshot.py", *(JS_SOURCE / name for name in JS_FILES))
    return _source_key(QUICKJS_SHA256, ours)


def _cwasm_path(wasm: Path, recipe: Recipe) -> Path:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))]
    parts = (
        _digest_file(wasm).read_text(),
        importlib.metadata.version("wasmtime"),
        *(file.read_text() for file in recipe.engine),
        platform.machine(),
        cpu[0] if cpu else "",
    )
    return wasm.with_name(f"{wasm.stem}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}.cwasm")


def _digest_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _valid(path: Path) -> bool:
    try:
        return _digest_file(path).read_text() == _sha256(path)
    except FileNotFoundError:
        return False


def _valid_pair(wasm: Path, recipe: Recipe) -> BuiltGuest | None:
    if not _valid(wasm):
        return None
    cwasm = _cwasm_path(wasm, recipe)
    if not _valid(cwasm):
        return None
    with contextlib.suppress(OSError):  # a folder that is read-only, as in the image, keeps what it has anyway
        for file in (wasm, cwasm):
            os.utime(_digest_file(file))  # in use: see _remove_unused
    return BuiltGuest(wasm, cwasm, _digest_file(wasm).read_text())


@contextlib.contextmanager
def locked(folder: Path, progress: Progress) -> Iterator[None]:
    """One builder at a time in this folder; the others wait."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _publish(path: Path, make: Callable[[Path], None]) -> None:
    """Lets `make` write a file elsewhere in the folder, then moves it and its digest into place."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as scratch:
        made = Path(scratch) / path.name
        make(made)
        note = _digest_file(made)
        note.write_text(_sha256(made))
        for file in (made, note):
            file.chmod(0o600)
        # The digest goes first: without its file it vouches for nothing, and a file never stands beside an old digest.
        note.rename(_digest_file(path))
        made.rename(path)


def _componentize(target: Path, progress: Progress) -> None:
    progress("building the Python guest (once, about 10 to 30 s)")
    start = time.monotonic()
    work = target.parent / "source"
    work.mkdir()
    for name in FILES:
        shutil.copyfile(SOURCE / name, work / name)
    program = Path(sys.executable).parent / "componentize-py"
    world = ["-d", "runner.wit", "-w", "runner"]
    _run([str(program), *world, "componentize", "--stub-wasi", "-p", ".", "prelude", "-o", str(target)], work)
    progress(f"built the Python guest in {time.monotonic() - start:.0f} s")


def _bake(target: Path, progress: Progress) -> None:
    progress("building the JavaScript guest (once, about 5 s)")
    start = time.monotonic()
    if _sha256(QUICKJS) != QUICKJS_SHA256:
        raise SandboxUnavailable(f"{QUICKJS.name} is not the file that belongs here: its SHA-256 differs")
    prelude = [str(JS_SOURCE / name) for name in JS_FILES]
    _run(command("sandboxes.js_build", "bake", str(target), str(QUICKJS), *prelude), target.parent)
    progress(f"built the JavaScript guest in {time.monotonic() - start:.0f} s")


def _compile(recipe: Recipe, wasm: Path, target: Path, progress: Progress) -> None:
    progress(f"compiling the {recipe.name} guest to native code (once, about 5 to 30 s)")
    start = time.monotonic()
    _run(command(*recipe.program.split(), str(wasm), str(target)), target.parent)
    progress(f"compiled the {recipe.name} guest in {time.monotonic() - start:.0f} s")


def _run(argv: list[str], where: Path) -> None:
    done = subprocess.run(
        argv, cwd=where, env={}, capture_output=True, text=True, timeout=BUILD_SECONDS, errors="replace", check=False
    )
    if done.returncode != 0:
        raise SandboxUnavailable(f"{Path(argv[0]).name} failed: {(done.stderr or done.stdout).strip()[-1000:]}")


PYTHON: Final = Recipe("Python", _python_key, _componentize, "sandboxes.wasm_engine", (ENGINE_SOURCE,))
JAVASCRIPT: Final = Recipe("JavaScript", _js_key, _bake, "sandboxes.js_build compile", (JS_BUILD, ENGINE_SOURCE))
