"""An outbound client that dials nobody: for cases, which say what the backend answers. The allow list still holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from gateway.problems import refuse
from gateway.runners.message import Answer, Ask, permitted
from gateway.tool import Json


@dataclass(frozen=True, slots=True)
class Upstream:
    """What every backend answers: an HTTP status and a body, sent as JSON unless it is text."""

    status: int
    body: Json


class CannedNet:
    """Stands where `Net` stands. Without an upstream nothing can be reached."""

    def __init__(self, upstream: Upstream | None) -> None:
        self._upstream = upstream
        self.asked: list[Ask] = []

    async def request(self, ask: Ask, follow: int = 0) -> Answer:
        """The canned answer. Raises `Refusal`: `egress_denied` off the allow list, `upstream_unreachable`."""
        permitted(ask)
        if self._upstream is None:
            raise refuse("upstream_unreachable", "This case has no upstream.")
        self.asked.append(ask)
        text = self._upstream.body
        kind, body = (
            ("text/plain", text.encode()) if isinstance(text, str) else ("application/json", orjson.dumps(text))
        )
        headers: Mapping[str, str] = {"content-type": kind}
        return Answer(self._upstream.status, headers, body, kind)
