"""Reading frames and answers: any bytes at all in, checked values or one exception out."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxes.answers import ALLOWANCE, cap, read
from sandboxes.frames import FrameError, Splitter, pack, unpack_object
from sandboxes.model import Job, Limits

LIMITS = Limits(output=100)
FAIR = {"ok": True, "limit": None, "stdout": "", "stderr": "", "truncated": False, "result": None}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def answer(**parts: object) -> bytes:
    return json.dumps({**FAIR, **parts}).encode()


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_any_bytes_are_read_without_an_error(raw):
    """No bytes a guest can send raise; what is no answer is the status "error"."""
    assert read(raw, LIMITS).status == "error"


@given(
    ok=JSON,
    limit=JSON | st.sampled_from(["memory", "output", "wall"]),
    stdout=JSON,
    stderr=JSON,
    truncated=JSON,
    result=JSON,
)
def test_any_answer_stays_within_the_limits(ok, limit, stdout, stderr, truncated, result):
    """Whatever the parts are, the texts that come out can be UTF-8 and are held to the limit."""
    found = read(answer(ok=ok, limit=limit, stdout=stdout, stderr=stderr, truncated=truncated, result=result), LIMITS)
    assert len(found.stdout.encode()) <= LIMITS.output
    assert len(found.stderr.encode()) <= LIMITS.output + ALLOWANCE
    assert found.status in ("ok", "error", "limit")
    assert found.limit in (None, "memory", "output")
    json.dumps(found.value, ensure_ascii=False).encode()


@given(stdout=st.text(max_size=16), result=JSON)
def test_a_fair_answer_comes_through_unchanged(stdout, result):
    """A fair answer within the limit keeps its text and value."""
    found = read(answer(stdout=stdout, result=result), Limits(output=100_000))
    assert (found.status, found.stdout, found.value) == ("ok", stdout, result)


@given(st.text(max_size=100), st.text(max_size=100))
def test_a_guest_within_its_limit_is_never_over_the_cap(stdout, result):
    """The longest JSON form of output within the limit fits the cap the worker holds answers to."""
    limits = Limits(output=len(stdout.encode()) + len(json.dumps(result)))
    assert len(answer(stdout=stdout, result=result)) <= cap(limits)


@pytest.mark.parametrize(
    "number", ["1e999", "-1e999", "NaN", "Infinity", "18446744073709551616", "-9223372036854775809", "9" * 5000]
)
def test_numbers_that_do_not_travel_are_refused(number):
    """Numbers that are not finite or beyond 64 bits are no JSON here."""
    with pytest.raises(FrameError):
        unpack_object(f'{{"a":{number}}}'.encode())


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 1e308, 0])
def test_numbers_that_do_travel_are_kept(number):
    """Integers of 64 bits and finite floats are kept exactly."""
    assert unpack_object(json.dumps({"a": number}).encode()) == {"a": number}


@given(st.lists(st.binary(max_size=50), max_size=6), st.data())
def test_frames_are_cut_alike_however_they_arrive(payloads, data):
    """A stream split at any places gives the same payloads in the same order."""
    stream = b"".join(map(pack, payloads))
    splitter, found = Splitter(50), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert found == payloads


def test_a_frame_over_the_cap_is_refused_by_its_length_alone():
    """The length is judged before any of the content has come."""
    with pytest.raises(FrameError, match="51 bytes, over 50"):
        Splitter(50).feed(b"\0\0\0\x33")


@pytest.mark.parametrize(
    "limits",
    [
        {"wall": 0},
        {"wall": 301},
        {"wall": math.nan},
        {"memory": 1},
        {"memory": 2**40},
        {"output": -1},
        {"host_calls": 5000},
    ],
)
def test_limits_outside_their_bounds_are_refused(limits):
    """A limit outside its bounds names itself."""
    with pytest.raises(ValueError, match=next(iter(limits))):
        Limits(**limits)


def test_a_program_that_is_no_text_is_refused():
    """A program with a lone surrogate cannot be handed to any guest."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        Job("print('\ud800')")


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 2**64}, {"now": -1.0}, {"now": math.nan}, {"now": math.inf}])
def test_a_seed_or_clock_that_cannot_be_is_refused(wrong):
    """A seed that is no unsigned 64-bit integer and a clock that is no time are refused."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Job("", **wrong)


@pytest.mark.parametrize("unit", ["[]", '{"":1}', "1", '"ab"', "1.5", "{}"])
def test_a_result_beyond_the_limit_is_not_even_parsed(unit):
    """A forged result that only fits because the cap leaves room for escapes is the limit of output, unparsed."""
    limits = Limits(output=20_000)
    raw = answer(result=0)[:-2] + b"[" + b",".join([unit.encode()] * (100_000 // (len(unit) + 1))) + b"]}"
    assert len(raw) < cap(limits)
    found = read(raw, limits)
    assert (found.status, found.limit, found.truncated, found.value) == ("limit", "output", True, None)


@pytest.mark.parametrize("text", ["\0" * 19_000, '"' * 10_000, "\\" * 10_000, '[{,"\\' * 3000, "\\u005b[[" * 2000])
def test_text_that_looks_like_structure_is_text(text):
    """What stands in strings, however it is escaped, counts neither as a result nor as depth."""
    limits = Limits(output=20_000)
    found = read(answer(stdout=text, result=[[]]), limits)
    assert (found.status, found.stdout, found.value) == ("ok", text, [[]])


@pytest.mark.parametrize(("levels", "status"), [(64, "ok"), (65, "error")])
def test_a_result_has_at_most_64_levels(levels, status):
    """Sixty-four levels of lists and objects are kept; one more is an error that says so."""
    value: object = 0
    for level in range(levels):
        value = {"a": value, "}": "[["} if level % 2 else [0, value, "]]"]
    found = read(answer(result=value), Limits(output=100_000))
    assert (found.status, "deeper than 64" in found.stderr) == (status, status == "error")
