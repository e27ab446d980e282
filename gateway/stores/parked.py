"""A call that waits for a person, as text: what stands in plain, and what is content. It keeps nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from gateway.obligations import Approval
from gateway.parked import Answer, Parked, Preview
from gateway.tool import Json

_CONTENT = ("arguments", "preview")
_NESTED = ("needs", "answers", "actors")
_PLAIN = tuple(each.name for each in fields(Parked) if each.name not in _CONTENT + _NESTED)


def plain(parked: Parked) -> dict[str, Json]:
    """All of it but the content, as JSON."""
    said: dict[str, Json] = {name: getattr(parked, name) for name in _PLAIN}
    said["needs"] = [asdict(each) for each in parked.needs]
    said["answers"] = [asdict(each) for each in parked.answers]
    said["actors"] = list(parked.actors)
    return said


def content(parked: Parked) -> str:
    """What is to be sealed."""
    preview = None if parked.preview is None else asdict(parked.preview)
    return json.dumps({"arguments": parked.arguments, "preview": preview})


def parked_of(said: Mapping[str, Any], words: str | None) -> Parked:
    """What `plain` and `content` wrote; without its content where that was erased."""
    kept = json.loads(words) if words is not None else {"arguments": None, "preview": None}
    needs = tuple(Approval(each["rule"], tuple(each["by"]), each["ttl"]) for each in said["needs"])
    return Parked(
        **{name: said[name] for name in _PLAIN},
        needs=needs,
        answers=tuple(Answer(**{**each, "rules": tuple(each["rules"])}) for each in said["answers"]),
        arguments=kept["arguments"],
        actors=tuple(said["actors"]),
        preview=None if kept["preview"] is None else Preview(**kept["preview"]),
    )
