"""The runner of tools that live on an MCP server: one warm connection, and exactly one request per warm call.

A tool's definition is pinned: by the server file, else at first sight. Before each call the definition last listed is
compared with the pin, and a changed one is refused with nothing sent. Definitions are listed before the first call over
a new connection, in the background once the list is older than `check` seconds, and before the call once it is older
than `wait` seconds or the server said that its list changed. So a server that was restarted is looked at first, no call
rests on a definition looked at more than `wait` seconds ago, and on a busy server no call waits for one.

It never passes the caller's credential on, never sends a call twice unless the server said that it took none, and hands
out nothing but text and structured content.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.allow import networks_of, within
from gateway.mirrors import Mirror, mirrors, wrapped
from gateway.model import Failure, Holder, RawOutput
from gateway.ports import Pins
from gateway.problems import problem, refuse
from gateway.runners.mcp_wire import Object, Peer, Reply, Speech, greet
from gateway.runners.net import Net
from gateway.strictjson import canonical
from gateway.tool import Json, McpBackend, SecretUse, Server
from gateway.urls import parse_url
from gateway.work import Work

log = logging.getLogger("toolgate")

CHECK_SECONDS: Final = 15.0
WAIT_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 10.0
MAX_PAGES: Final = 100
MAX_TOOLS: Final = 10_000
MAX_LINKS: Final = 4096  # servers, times the sessions that have credentials of their own
PINNED: Final = ("name", "description", "inputSchema", "outputSchema", "annotations")

_NOT_TAKEN = frozenset({-32020, -32022, -32601})  # how a modern server says that it did not look at the call
_INVALID_PARAMS = -32602
_KEY = "dev.toolgate/idempotency-key"  # by which a gateway like this one, and whoever else knows it, sees a repeat


def definition_digest(definition: Object) -> str:
    """What a pin holds: `sha256:` and the digest of the canonical JSON of the members of `PINNED`, absent as null."""
    return "sha256:" + hashlib.sha256(canonical({key: definition.get(key) for key in PINNED})).hexdigest()


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as the server lists it now."""

    digest: str
    mirrors: tuple[Mirror, ...]


class Link:
    """What is agreed with one server, and what it offers. Connecting and listing happen once for all who wait."""

    def __init__(self, peer: Peer, monotonic: Callable[[], float], check: float, wait: float) -> None:
        self.peer = peer
        self.offers: Mapping[str, Offer] = {}
        self._monotonic, self._check, self._wait = monotonic, check, wait
        self._speech: Speech | None = None
        self._listed_at = float("-inf")
        self._work: asyncio.Task[None] | None = None

    async def ready(self, deadline: float) -> Speech:
        """The agreed speech, with offers that are fresh enough. Raises `Refusal(upstream_unreachable)`."""
        age = self._monotonic() - self._listed_at
        if self._speech is None or age >= self._wait or not await self.peer.is_warm():
            await self.refresh(deadline)
        elif age >= self._check:
            self._begin()
        if self._speech is None:
            raise refuse("upstream_unreachable", "The MCP server was lost while it was being asked.")
        return self._speech

    async def refresh(self, deadline: float) -> None:
        """Lists again now, connecting first where that is needed. Raises `Refusal(upstream_unreachable)`."""
        try:
            async with asyncio.timeout(deadline - self._monotonic()):
                await asyncio.shield(self._begin())
        except TimeoutError:
            raise refuse("upstream_unreachable", "The MCP server did not greet in time.") from None

    def forget(self) -> None:
        """The server no longer knows what was agreed."""
        self._speech = None

    def doubt(self) -> None:
        """The server says that its offers changed: the next call looks first."""
        self._listed_at = float("-inf")

    async def close(self) -> None:
        """Ends what is under way."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait({self._work})

    def _begin(self) -> asyncio.Task[None]:
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._look())
            self._work.add_done_callback(_noted)
        return self._work

    async def _look(self) -> None:
        deadline = self._monotonic() + CONNECT_SECONDS
        try:
            if self._speech is None or not await self._still(self._speech, deadline):
                self._speech = None
                speech = await greet(self.peer, deadline)
                if not await self._list(speech, deadline):
                    raise refuse("upstream_unreachable", "The MCP server gave no usable list of its tools.")
                self._speech = speech
        except Failure as failure:  # something was sent, but no tool ran
            raise refuse("upstream_unreachable", failure.problem.detail) from None

    async def _still(self, speech: Speech, deadline: float) -> bool:
        """Whether what was agreed still holds; a server that was restarted forgot it, and cut the connection."""
        try:
            return await self._list(speech, deadline)
        except Failure:
            return False

    async def _list(self, speech: Speech, deadline: float) -> bool:
        """Whether the server listed its tools."""
        offers = await listed(self.peer, speech, deadline)
        if offers is not None:
            self.offers, self._listed_at = offers, self._monotonic()
        return offers is not None


def _noted(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("an MCP server could not be looked at: %s", error)


async def listed(peer: Peer, speech: Speech, deadline: float) -> Mapping[str, Offer] | None:
    """Every tool the server lists, by name; `None` when it gives no list, or none that ends.

    A name listed twice is offered not at all: nobody knows which one runs.
    """
    found: dict[str, Offer] = {}
    twice: set[str] = set()
    cursor: Json = None
    for _ in range(MAX_PAGES):
        reply = await peer.ask(speech, "tools/list", {} if cursor is None else {"cursor": cursor}, deadline)
        tools = (reply.result or {}).get("tools")
        if not isinstance(tools, list) or len(found) + len(tools) > MAX_TOOLS:
            return None
        for tool in map(_object, tools):
            name = str(tool.get("name"))
            twice |= {name} & found.keys()
            found[name] = Offer(definition_digest(tool), mirrors(_object(tool.get("inputSchema"))))
        cursor = (reply.result or {}).get("nextCursor")
        if cursor is None:
            return {name: offer for name, offer in found.items() if name not in twice}
    return None


class McpRunner:
    """Calls tools on MCP servers. `servers` by name; `check` and `wait` are seconds (see above)."""

    def __init__(
        self,
        net: Net,
        servers: Mapping[str, Server],
        pins: Pins,
        *,
        check: float = CHECK_SECONDS,
        wait: float = WAIT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._net, self._servers, self._pins = net, servers, pins
        self._check, self._wait, self._monotonic = check, wait, monotonic
        self._links: OrderedDict[tuple[str, tuple[SecretUse, ...], str], Link] = OrderedDict()
        self._warned: dict[tuple[str, str], str] = {}

    async def run(self, work: Work) -> RawOutput:
        """What the tool answered.

        Raises:
            Refusal: `tool_changed`, `upstream_unreachable`, `egress_denied`: the tool was not called.
            Failure: `timeout`, `upstream_error`, `output_invalid`, `output_too_large`: it may have run.
        """
        backend = work.tool.backend
        if not isinstance(backend, McpBackend):
            raise TypeError("not an MCP tool")
        server = self._servers[backend.server]
        if not within(networks_of(work.networks), "POST", parse_url(server.url)):
            raise refuse("egress_denied", "The policy does not let this call send anything to its MCP server.")
        link = self._link(server, work)
        for _ in range(2):
            speech, offer = await self._checked(link, server, backend.tool, work.deadline)
            reply = await _sent(link, speech, offer, backend.tool, work)
            if not _not_taken(speech, reply):
                return _output(reply, link.peer.host)
            link.forget()
        raise refuse("upstream_unreachable", "The MCP server does not take the call in the way it agreed to.")

    async def close(self) -> None:
        """Ends what is under way in the background. Legacy sessions are left to expire."""
        for link in self._links.values():
            await link.close()

    def _link(self, server: Server, work: Work) -> Link:
        """What is agreed with the server under these credentials, of a tenant or of a tool in a session perhaps."""
        credential, holder = (*server.secrets, *work.tool.secrets), work.holder
        varies = {use.varies for use in credential}
        whose = ""
        if holder is not None and varies != {"never"}:
            tenant, session = holder.caller.principal.tenant, holder.caller.session.uid
            whose = f"{session}\x1f{holder.tool}\x1f{_shown(holder)}" if "session" in varies else tenant
        key = (server.name, credential, whose)
        link = self._links.get(key)
        if link is None:
            peer = Peer(self._net, parse_url(server.url), credential)
            link = Link(peer, self._monotonic, self._check, self._wait)
            if len(self._links) >= MAX_LINKS:  # sessions come and go; the one that was used longest ago goes first
                self._links.popitem(last=False)
        self._links[key] = link
        self._links.move_to_end(key)
        link.peer.holder = holder  # whoever called last: where it matters, whose credential it is stays the same
        return link

    async def _checked(self, link: Link, server: Server, tool: str, deadline: float) -> tuple[Speech, Offer]:
        """The tool as it is offered now, when it is what was pinned."""
        speech = await link.ready(deadline)
        offer = link.offers.get(tool)
        if offer is None:
            raise refuse("tool_changed", "The MCP server does not offer this tool any more.")
        pinned = server.pins.get(tool) or self._pins.find(server.name, tool)
        if pinned is None:
            await self._pins.pin(server.name, tool, offer.digest)
        elif pinned != offer.digest:
            self._warn(server.name, tool, pinned, offer.digest)
            raise refuse("tool_changed", "The MCP server changed this tool's definition after it was pinned.")
        return speech, offer

    def _warn(self, server: str, tool: str, pinned: str, offered: str) -> None:
        """Tells the operator, once for each definition: the new digest is what accepts it, as a pin in the file."""
        if self._warned.get((server, tool)) != offered:
            self._warned[server, tool] = offered
            said = (
                "tool %s of MCP server %s changed: pinned is %s; to accept what it is now, pin %s in the server's file"
            )
            log.warning(said, tool, server, pinned, offered)


def _shown(holder: Holder) -> str:
    """Which token the caller came with: calls of one session may have several, each exchanged for one of its own."""
    return hashlib.sha256((holder.credential or "").encode()).hexdigest()


async def _sent(link: Link, speech: Speech, offer: Offer, tool: str, work: Work) -> Reply:
    headers: dict[str, str] = {}
    for mirror in offer.mirrors if speech.modern else ():
        value = mirror.value(work.arguments)
        if value is not None:
            headers[mirror.header] = wrapped(value)
    params: Object = {"name": tool, "arguments": work.arguments}
    if work.key is not None:
        params = {**params, "_meta": {_KEY: work.key}}
    reply = await link.peer.ask(speech, "tools/call", params, work.deadline, headers)
    if reply.changed:
        link.doubt()
    return reply


def _not_taken(speech: Speech, reply: Reply) -> bool:
    """Whether the server says that it did not even look: a session it does not know, a protocol it does not speak."""
    if speech.modern:
        return reply.status in (400, 404) and reply.code in _NOT_TAKEN
    return reply.status == 404 and speech.session is not None


def _output(reply: Reply, host: str) -> RawOutput:
    if reply.status in (401, 403):
        raise refuse("upstream_unreachable", "The MCP server does not accept the gateway's credential.")
    if reply.error is not None:
        return _error(reply, host)
    if reply.result is None or reply.status != 200:
        raise Failure(problem("upstream_error", f"The MCP server answered with HTTP {reply.status}."))
    result = reply.result
    if result.get("resultType", "complete") != "complete":
        raise Failure(problem("upstream_error", "The MCP server wants to be answered first, which is not supported."))
    content = result.get("content", [])
    if not isinstance(content, list):
        raise Failure(problem("output_invalid", "The MCP server's result has no list of content."))
    failed = problem("tool_error", "The tool reported an error; its text is in the result.")
    return RawOutput(
        text="\n".join(_block(block) for block in content),
        structured=result.get("structuredContent"),
        problem=failed if result.get("isError") else None,
        origin=host,
    )


def _error(reply: Reply, host: str) -> RawOutput:
    said = (reply.error or {}).get("message")
    code, detail = "upstream_error", "The MCP server answered with an error; its text is in the result."
    if reply.code == _INVALID_PARAMS:
        code, detail = "tool_error", "The MCP server does not take these arguments; its text is in the result."
    return RawOutput(said if isinstance(said, str) else "", problem=problem(code, detail), origin=host)


def _block(block: Json) -> str:
    content = _object(block)
    kind, text = content.get("type"), content.get("text")
    if kind == "text" and isinstance(text, str):
        return text
    known = kind if kind in ("image", "audio", "resource", "resource_link") else "unknown"
    return f"[content of type {known} is not passed on]"


def _object(value: Json) -> Object:
    return value if isinstance(value, dict) else {}
