"""A folder of files: what belongs to it, and whether it was one folder all the time it was read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.folders import look, read, read_as
from gateway.specs.yaml import MAX_BYTES, SpecErrors


def names(folder: Path) -> list[str]:
    """What is read, as paths inside the folder."""
    return [str(Path(name).relative_to(folder)) for name in read(folder)]


def test_hidden_files_and_folders_do_not_belong(tmp_path: Path) -> None:
    """Nor do the projects inside, at any depth; a project's own folder is no project inside itself."""
    for name in (".git/a.yaml", "in/.b.yaml", "in/c.yaml", "in/other/toolgate.yaml", "in/other/deep/d.yaml", "e.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x: 1\n")
    assert names(tmp_path) == ["e.yaml", "in/c.yaml"]
    (tmp_path / "toolgate.yaml").write_text("")
    assert names(tmp_path) == ["e.yaml", "in/c.yaml", "toolgate.yaml"]


def test_a_volume_as_kubernetes_mounts_it_is_read_once_and_its_swap_is_seen(tmp_path: Path) -> None:
    """Each file is a link through `..data`, which leads from one hidden folder to the next."""
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "a.yaml").write_text(f"version: {number}\n")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    before = look(tmp_path)
    assert read(tmp_path) == {str(tmp_path / "a.yaml"): b"version: 1\n"}
    (tmp_path / "..next").symlink_to("..2")
    (tmp_path / "..next").replace(tmp_path / "..data")
    assert look(tmp_path) != before
    assert read(tmp_path) == {str(tmp_path / "a.yaml"): b"version: 2\n"}


def test_a_change_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    """A program that puts the old time back cannot put back when the entry changed."""
    file = tmp_path / "a.yaml"
    file.write_text("x: 1\n")
    os.utime(file, ns=(10**18, 10**18))
    before = look(tmp_path)
    file.write_text("x: 2\n")
    os.utime(file, ns=(10**18, 10**18))
    assert look(tmp_path) != before


def test_files_are_given_only_where_the_folder_looks_the_same_after_reading(tmp_path: Path) -> None:
    """Else some may be of before and some of after."""
    file = tmp_path / "a.yaml"
    file.write_text("x: 1\n")
    before = look(tmp_path)
    assert read_as(tmp_path, before) == {str(file): b"x: 1\n"}
    file.write_text("x: 22\n")
    assert read_as(tmp_path, before) is None
    file.unlink()
    assert read_as(tmp_path, look(tmp_path)) == {}


@pytest.mark.parametrize("gone", ["folder", "file"])
def test_what_cannot_be_read_is_an_error_once_it_stays_so(tmp_path: Path, gone: str) -> None:
    """A folder that is not there, and a link that leads nowhere: in their place could be what forbids."""
    folder = tmp_path / "policies"
    if gone == "file":
        folder.mkdir()
        (folder / "a.yaml").symlink_to("nowhere")
    with pytest.raises(SpecErrors, match="no such folder" if gone == "folder" else r"a\.yaml:1:1: cannot be read"):
        read_as(folder, look(folder))
    assert read_as(folder, ()) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")
def test_a_folder_inside_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    """It is not taken for an empty one."""
    inside = tmp_path / "inside"
    inside.mkdir(mode=0)
    with pytest.raises(SpecErrors, match="inside:1:1: cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("what", ["folder", "pipe", "link to a pipe", "name"])
def test_what_could_hold_a_policy_and_is_not_read_is_an_error(tmp_path: Path, what: str) -> None:
    """A linked folder, what is no file, a name that no record can hold: each could stand for what forbids."""
    folder, elsewhere = tmp_path / "policies", tmp_path / "elsewhere"
    folder.mkdir()
    if what == "folder":
        elsewhere.mkdir()
        (folder / "team").symlink_to(elsewhere)
    elif what == "pipe":
        os.mkfifo(folder / "a.yaml")
    elif what == "link to a pipe":
        os.mkfifo(elsewhere)
        (folder / "a.yaml").symlink_to(elsewhere)
    else:
        (folder / os.fsdecode(b"\xff.yaml")).write_bytes(b"x: 1\n")
    with pytest.raises(SpecErrors, match=r"not followed|is no file|has to be UTF-8") as refused:
        read(folder)
    assert str(refused.value).encode()


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """Of a YAML file as much as shows that it is too large; of any other among policies nothing."""
    for name in ("a.yaml", "b.YML", "c.tar"):
        with (tmp_path / name).open("wb") as huge:
            huge.truncate(1 << 40)
    files = read(tmp_path, only_yaml=True)
    assert {Path(name).name: len(raw) for name, raw in files.items()} == dict.fromkeys(
        ("a.yaml", "b.YML"), MAX_BYTES + 1
    )
