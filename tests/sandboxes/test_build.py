"""Building the guest: once, in a folder of our own, checked before each use, and importing nothing but `host`."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime
from wasmtime import component

from sandboxes import wasm_engine
from sandboxes.guests.build import ensure, ensure_js
from sandboxes.model import Job, SandboxUnavailable
from sandboxes.pool import WasmPython
from sandboxes.wasm import Worker, python_worker


@pytest.fixture
def copy(guests: Path, tmp_path: Path) -> Path:
    """A folder with its own copy of the built guest."""
    folder = tmp_path / "guests"
    folder.mkdir(mode=0o700)
    built = ensure(guests)
    for file in (built.wasm, built.cwasm):
        for name in (file.name, file.name + ".sha256"):
            shutil.copy(guests / name, folder / name)
    return folder


def no_build(line: str) -> None:
    raise AssertionError(f"built again: {line}")


def test_a_built_guest_is_used_again(copy):
    """With everything in place nothing is built, and the digest named is that of the component."""
    guest = ensure(copy, no_build)
    assert guest.wasm_sha256 == (copy / (guest.wasm.name + ".sha256")).read_text()


@pytest.mark.parametrize("spoil", ["altered", "without a digest"])
def test_native_code_that_does_not_match_is_built_again(copy, spoil):
    """Native code that is altered, or that no digest vouches for, is compiled anew from the component, and runs."""
    first = ensure(copy, no_build)
    if spoil == "altered":
        code = bytearray(first.cwasm.read_bytes())
        code[len(code) // 2] ^= 1
        first.cwasm.write_bytes(code)
    else:
        (copy / (first.cwasm.name + ".sha256")).unlink()
    lines: list[str] = []
    again = ensure(copy, lines.append)
    assert [line.split()[0] for line in lines] == ["compiling", "compiled"]
    assert again == first

    async def scenario() -> None:
        pool = WasmPython(copy, workers=1, spares=0)
        await pool.start()
        try:
            assert (await pool.run(Job("print(1)"))).stdout == "1\n"
        finally:
            await pool.close()

    asyncio.run(scenario())
    assert [path.name for path in copy.iterdir() if path.name.startswith(".build")] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_folder_that_is_read_only_is_used_as_it_is(copy):
    """As in a container with `--read-only`, where not even a file's time can be changed."""
    if subprocess.run(["mount", "--bind", str(copy), str(copy)], check=False).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(copy)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (copy / "x").touch()
        assert ensure(copy, no_build).cwasm.parent == copy
    finally:
        subprocess.run(["umount", "-l", str(copy)], check=True)


def test_guests_that_nobody_starts_any_more_are_removed(copy):
    """A build makes room: what was not looked at for a week goes, and what is used or is somebody else's stays."""
    first = ensure(copy, no_build)
    old, fresh, foreign = copy / "python-old.cwasm", copy / "python-fresh.cwasm", copy / "notes.txt"
    for path in (old, fresh, foreign):
        path.write_text("x")
        path.with_name(path.name + ".sha256").write_text("x")
    for path in (old, foreign, first.wasm):
        os.utime(path.with_name(path.name + ".sha256"), (0, 0))
    ensure(copy, no_build)
    assert old.exists()
    ensure_js(copy)
    assert not old.exists()
    assert not old.with_name(old.name + ".sha256").exists()
    assert fresh.exists()
    assert foreign.exists()
    assert ensure(copy, no_build) == first


def test_a_folder_others_can_open_is_refused(copy):
    """Native code is not taken from a folder that others can open, nor from behind a link."""
    copy.chmod(0o755)
    with pytest.raises(SandboxUnavailable, match="only this user can open"):
        ensure(copy)
    copy.chmod(0o700)
    link = copy.parent / "link"
    link.symlink_to(copy)
    with pytest.raises(SandboxUnavailable, match="only this user can open"):
        ensure(link)


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path):
    """A folder that cannot be made is refused with a sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SandboxUnavailable, match="cannot be built"):
        ensure(tmp_path / "file" / "guests")


def test_two_builds_at_once_build_once(copy):
    """Of two programs that find native code missing at the same time, one compiles and the other waits for it."""
    ensure(copy, no_build).cwasm.unlink()
    argv = [sys.executable, "-m", "sandboxes.guests", str(copy)]
    root = Path(__file__).parents[2]
    both = [subprocess.Popen(argv, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    said = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    lines = "".join(err for _out, err in said)
    assert [lines.count(f"compiling the {name} guest") for name in ("Python", "JavaScript")] == [1, 1]
    assert said[0][0] == said[1][0] == f"{ensure(copy, no_build).cwasm}\n{ensure_js(copy, no_build).cwasm}\n"


def test_the_guest_imports_only_host(guests):
    """The component's own list of imports is the one interface `host`."""
    engine = wasm_engine.engine()
    guest = component.Component.deserialize_file(engine, str(ensure(guests).cwasm))
    assert list(guest.type.imports(engine)) == ["local:runner/host"]


@pytest.mark.parametrize(
    "text",
    [
        '(component (import "wasi:clocks/monotonic-clock@0.2.0" (instance)))',
        '(component (import "local:runner/host" (instance)) (import "extra" (func)))',
        "(component)",
    ],
)
def test_a_guest_with_other_imports_is_not_compiled(tmp_path, text):
    """A component that imports anything else, or not `host`, is refused by name and no native code is written."""
    wasm = tmp_path / "guest.wasm"
    wasm.write_bytes(wasmtime.wat2wasm(text))
    with pytest.raises(ValueError, match="the guest imports"):
        wasm_engine.compile_guest(str(wasm), str(tmp_path / "guest.cwasm"))
    assert not (tmp_path / "guest.cwasm").exists()


def test_a_worker_refuses_native_code_of_another_guest(tmp_path):
    """A worker given native code with other imports, or no native code, does not start and says why."""
    engine = wasm_engine.engine()
    other = tmp_path / "other.cwasm"
    other.write_bytes(component.Component(engine, '(component (import "extra" (func)))').serialize())
    with pytest.raises(SandboxUnavailable, match="the guest imports"):
        asyncio.run(Worker.start(python_worker(str(other))))
    other.write_bytes(os.urandom(1000))
    with pytest.raises(SandboxUnavailable, match="the sandbox worker did not start"):
        asyncio.run(Worker.start(python_worker(str(other))))
