"""Every file in `busted/` is wrong in one way. Its first line says where and gives words of the sentence."""

from pathlib import Path

import pytest

from gateway.specs.checks import Offer
from gateway.specs.load import load_specs
from gateway.specs.yaml import SpecErrors

FOLDER = Path(__file__).parent / "busted"
FILES = sorted(FOLDER.iterdir())
SANDBOXES = {"wasm-python": Offer(frozenset({"no-network"}), {"wall": (0.001, 300.0), "memory": (2**25, 2**29)})}


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_busted_file_is_refused_with_its_place(path: Path) -> None:
    """The file is refused with exactly one finding, at the right line, in the right words."""
    raw = path.read_bytes()
    line, _, words = raw.decode().splitlines()[0].removeprefix("# ").partition(": ")
    with pytest.raises(SpecErrors) as caught:
        load_specs({path.name: raw}, sandboxes=SANDBOXES)
    shown = [str(finding) for finding in caught.value.findings]
    assert len(shown) == 1, shown
    assert shown[0].startswith(f"{path.name}:{line}:"), shown
    assert words in shown[0]


def test_there_are_many_ways_to_be_wrong() -> None:
    """The folder is not empty by accident."""
    assert len(FILES) >= 70
