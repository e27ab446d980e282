"""Every file in `busted/` is wrong in one way. Its first line says where and gives words of the sentence."""

from pathlib import Path

import jsonschema
import pytest

from gateway.specs import yaml
from gateway.specs.language import schema_of
from gateway.specs.load import load_specs
from gateway.specs.sandboxed import Offer
from gateway.specs.yaml import SpecErrors

FOLDER = Path(__file__).parent / "busted"
FILES = sorted(FOLDER.iterdir())
LIMITS = {"wall": (0.001, 300.0), "memory": (2**25, 2**29), "cpu": (1, 1), "pids": (4, 64), "files_out": (0, 2**22)}
SANDBOXES = {name: Offer(frozenset({"no-network"}), LIMITS) for name in ("wasm-python", "wasm")}
SANDBOXES["docker"] = Offer(frozenset({"no-network", "cpu-cap"}), LIMITS)


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


SEEN_BY_EDITORS = [
    *("timeout_bare", "timeout_word", "output_unit", "rate_unit", "effects_unknown", "fact_kind", "key_unknown"),
    *("runner_two", "code_both", "case_two_expectations"),
]


@pytest.mark.parametrize("name", SEEN_BY_EDITORS)
def test_an_editor_sees_a_wrong_unit_or_choice_before_the_gateway_does(name: str) -> None:
    """The published schema says more than which keys there are."""
    value = yaml.load((FOLDER / f"{name}.yaml").read_bytes(), name).value
    assert not jsonschema.Draft202012Validator(schema_of("tool")).is_valid(value)
