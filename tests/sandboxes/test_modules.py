"""Registering programs: what is refused and in which words, what is kept, and what is no longer found."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandboxes.model import SandboxUnavailable
from sandboxes.modules import MAX_SIZE, ModuleRefused, every, find, machine_key, refresh, register
from tests.sandboxes import programs

WASI = programs.WASI
START = '(memory (export "memory") 1) (func (export "_start"))'
REFUSED = {
    "poll_oneoff": (
        f'(module (import "{WASI}" "poll_oneoff" (func (param i32 i32 i32 i32) (result i32))) {START})',
        f"it imports {WASI}.poll_oneoff: not offered here",
    ),
    "a socket": (
        f'(module (import "{WASI}" "sock_send" (func (param i32 i32 i32 i32 i32) (result i32))) {START})',
        f"it imports {WASI}.sock_send: not offered here",
    ),
    "anything of env": (
        f'(module (import "env" "system" (func (param i32) (result i32))) {START})',
        "it imports env.system: not offered here",
    ),
    "a memory from outside": (
        '(module (import "env" "memory" (memory 1)) (func (export "_start")))',
        "it imports env.memory: not offered here",
    ),
    "a known name of another module": (
        f'(module (import "toolgate" "fd_write" (func (param i32 i32 i32 i32) (result i32))) {START})',
        "it imports toolgate.fd_write: not offered here",
    ),
    "a known function of another type": (
        f'(module (import "{WASI}" "fd_close" (func (param i64) (result i32))) {START})',
        f"it imports {WASI}.fd_close with another type than the one offered here",
    ),
    "a known function of two types": (
        f'(module (import "{WASI}" "fd_close" (func (param i64) (result i32)))'
        f' (import "{WASI}" "fd_close" (func (param i32) (result i32))) {START})',
        f"it imports {WASI}.fd_close with another type than the one offered here",
    ),
    "a known function as a global": (
        f'(module (import "{WASI}" "fd_close" (global i32)) {START})',
        f"it imports {WASI}.fd_close with another type than the one offered here",
    ),
    "many names": (
        "(module " + " ".join(f'(import "m" "{number:0200}" (func))' for number in range(9)) + START + ")",
        "and 4 more: not offered here",
    ),
    "no start": ('(module (func (export "run")))', "it exports no function _start"),
    "a start with parameters": (
        '(module (func (export "_start") (param i32)))',
        "it exports no function _start without parameters and results",
    ),
    "two memories": (f"(module (memory 1) {START})", "memory"),
    "a memory beyond 512 MiB": ('(module (memory 9000) (func (export "_start")))', "memory"),
    "a memory shared by threads": ('(module (memory 1 2 shared) (func (export "_start")))', "threads"),
    "a memory of 64 bits": ('(module (memory i64 1) (func (export "_start")))', "memory64"),
    "a table too large": ('(module (table 60000 funcref) (func (export "_start")))', "table"),
    "a component that wants WASI": (
        '(component (import "wasi:cli/environment@0.2.0" (instance)))',
        "it imports wasi:cli/environment@0.2.0: not offered here",
    ),
    "a component that wants more of host": (
        '(component (import "local:runner/host" (instance (export "open" (func)))))',
        "it imports local:runner/host#open: not offered here",
    ),
    "a component with another call": (
        '(component (import "local:runner/host" (instance (export "call" (func (param "name" string))))))',
        "it imports local:runner/host#call with another type",
    ),
    "a component that runs nothing": ("(component)", "it exports no run: func(input: string) -> string"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of guests of our own."""
    folder = tmp_path / "guests"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(scope="module")
def binaries() -> dict[str, bytes]:
    """All programs of this file as bytes."""
    texts = {name: text for name, (text, _) in REFUSED.items()}
    texts |= {"echo": programs.ECHO, "component": programs.COMPONENT % ""}
    return dict(zip(texts, programs.assemble(texts.values()), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_a_program_that_asks_for_more_is_refused_by_name(name: str, folder: Path, binaries: dict[str, bytes]) -> None:
    """What is not offered is named in the refusal, and nothing of the program is kept."""
    with pytest.raises(ModuleRefused) as refused:
        register(folder, binaries[name])
    assert REFUSED[name][1] in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert list((folder / "modules").iterdir()) == []


def test_what_is_no_program_is_refused(folder: Path, tmp_path: Path) -> None:
    """Text, a cut binary, an enormous file and a file that is not there each get a sentence."""
    for content, said in (
        (b"(module)", "not a WebAssembly binary"),
        (b"", "not a WebAssembly binary"),
        (b"\0asm\1\0\0\0\xff\xff\xff", "it is not WebAssembly that can run here"),
        (b"\0asm", "it is not WebAssembly that can run here"),
        (b"\0asm" + bytes(MAX_SIZE), "at most"),
    ):
        with pytest.raises(ModuleRefused, match=said):
            register(folder, content)
    with pytest.raises(ModuleRefused, match="cannot be read: No such file"):
        register(folder, tmp_path / "missing.wasm")


def test_a_program_is_kept_under_its_digest(folder: Path, tmp_path: Path, binaries: dict[str, bytes]) -> None:
    """From bytes or a file, the same program is one entry; a second time nothing is compiled."""
    said: list[str] = []
    module = register(folder, binaries["echo"], said.append)
    assert module.digest == "sha256:" + hashlib.sha256(binaries["echo"]).hexdigest()
    assert (module.kind, module.size) == ("module", len(binaries["echo"]))
    assert module.imports == (f"{WASI}.fd_read", f"{WASI}.fd_write")
    file = tmp_path / "echo.wasm"
    file.write_bytes(binaries["echo"])
    assert register(folder, file, said.append) == module == find(folder, module.digest)
    assert len(said) == 1
    component = register(folder, binaries["component"])
    assert (component.kind, component.imports) == ("component", ("local:runner/host",))
    assert (module.uses, component.uses) == (frozenset(), {"calls"})
    assert sorted(every(folder), key=lambda each: each.kind) == [component, module]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder / "modules").iterdir())


def test_what_is_no_digest_is_not_found(folder: Path, binaries: dict[str, bytes]) -> None:
    """Only `sha256:` and 64 digits name a program; nothing else reaches the file system."""
    digest = register(folder, binaries["echo"]).digest
    for name in (
        "",
        "echo",
        digest[7:],
        digest.upper(),
        digest[:-1],
        "sha256:../../" + digest[13:],
        "sha256:" + "0" * 64,
    ):
        assert find(folder, name) is None
    assert find(folder / "nowhere", digest) is None
    assert every(folder / "nowhere") == []


def test_an_altered_program_is_not_found(folder: Path, binaries: dict[str, bytes]) -> None:
    """A program whose bytes are no longer those of its digest does not exist; registering it again repairs it."""
    module = register(folder, binaries["echo"])
    kept = folder / "modules" / f"{module.digest[7:]}.wasm"
    kept.write_bytes(binaries["component"])
    assert find(folder, module.digest) is None
    assert every(folder) == []
    assert register(folder, binaries["echo"]) == find(folder, module.digest) == module


def test_altered_native_code_is_made_again_at_a_start(folder: Path, binaries: dict[str, bytes]) -> None:
    """Native code that was changed, or made for another machine or version, is not used, and `refresh` replaces it."""
    module = register(folder, binaries["echo"])
    assert module.cwasm is not None
    good = module.cwasm.read_bytes()
    module.cwasm.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    found = find(folder, module.digest)
    assert found is not None
    assert found.cwasm is None
    refresh(folder)
    assert find(folder, module.digest) == module
    module.cwasm.rename(module.cwasm.with_name(module.cwasm.name.replace(machine_key(), "0" * 16)))
    found = find(folder, module.digest)
    assert found is not None
    assert found.cwasm is None
    refresh(folder)
    assert find(folder, module.digest) == module


def test_what_an_earlier_version_took_may_be_refused_at_a_start(folder: Path, binaries: dict[str, bytes]) -> None:
    """A kept program that may not run any more has no native code; a start says why and goes on with the others."""
    good = register(folder, binaries["echo"])
    assert good.cwasm is not None
    good.cwasm.unlink()
    bad = hashlib.sha256(binaries["poll_oneoff"]).hexdigest()
    (folder / "modules" / f"{bad}.wasm").write_bytes(binaries["poll_oneoff"])
    (folder / "modules" / f"{bad}.json").write_text('{"kind":"module","imports":[]}')
    said: list[str] = []
    refresh(folder, said.append)
    assert find(folder, good.digest) == good
    found = find(folder, f"sha256:{bad}")
    assert found is not None
    assert found.cwasm is None
    assert [line for line in said if bad in line and "poll_oneoff: not offered here" in line]


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"kind":"module"}', '{"kind":"module","imports":7}'])
def test_a_note_of_another_shape_is_no_registration(folder: Path, binaries: dict[str, bytes], note: str) -> None:
    """What was written about a program and can no longer be read counts as nothing; registering again repairs it."""
    module = register(folder, binaries["echo"])
    (folder / "modules" / f"{module.digest[7:]}.json").write_text(note)
    assert find(folder, module.digest) is None
    assert register(folder, binaries["echo"]) == module


@pytest.mark.parametrize("inner", [False, True])
def test_a_folder_open_to_others_is_refused(folder: Path, binaries: dict[str, bytes], inner: bool) -> None:
    """Native code is not run from a folder that others can write to, nor from behind a link."""
    digest = register(folder, binaries["echo"]).digest
    place = folder / "modules" if inner else folder
    place.chmod(0o777)
    with pytest.raises(SandboxUnavailable, match="only this user can open"):
        find(folder, digest)
    with pytest.raises(SandboxUnavailable, match="only this user can open"):
        register(folder, binaries["component"])
    place.chmod(0o700)
    moved = place.rename(place.with_name("elsewhere"))
    place.symlink_to(moved)
    with pytest.raises(SandboxUnavailable, match="only this user can open"):
        find(folder, digest)


def test_those_who_register_the_same_program_at_once_all_have_it(folder: Path, binaries: dict[str, bytes]) -> None:
    """One compiles and the others wait: nobody is given a program without its native code."""
    told: list[str] = []
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: register(folder, binaries["echo"], told.append), range(4)))
    assert all(module.cwasm is not None and module.cwasm.exists() for module in found)
    assert told.count("compiling the program to native code") == 1
