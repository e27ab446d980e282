"""Long lists in pages: where a page ends, as the caller is told it and says it again. It sorts and cuts nothing."""

from __future__ import annotations

from gateway.problems import refuse

Place = tuple[float, str]  # when it began (unix seconds), and its id: no two are at one place
BEGINNING: Place = (-1.0, "")


def cursor_of(place: Place) -> str:
    """The cursor with which a list goes on after this."""
    at, name = place
    return f"{at!r}~{name}"


def place_of(cursor: str | None) -> Place:
    """The place after which a list goes on. Raises `Refusal(malformed)`."""
    if cursor is None:
        return BEGINNING
    at, _, name = cursor.partition("~")
    try:
        return float(at), name
    except ValueError:
        raise refuse("malformed", "cursor: this is none that was given out.") from None
