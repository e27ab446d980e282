"""Connecting accounts: routes for callers under `/v1/connections`, and the browser's side under `/connect`.

A caller starts for its own person only. The browser's side has no credential but the link: that one works once, goes no
further than the browser that opened it, and does nothing before a person agreed by a form of ours. Tokens never come by
here, and no browser is sent anywhere but to a provider of the settings.
"""

import hmac
import secrets
from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from gateway.accounts import Connected, Connecting, NotConnected, Person
from gateway.doors import pages
from gateway.doors.asgi import read_body, read_head
from gateway.model import Principal
from gateway.problems import refuse
from gateway.tool import Json

_FORM = "application/x-www-form-urlencoded"
_MAX_FORM = 4096  # bytes
_MAX_QUERY = 8192  # characters of what a provider says
_LASTS = 600  # seconds
_NAME = "toolgate-connect"
_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_BROWSER = 43  # characters of a browser's secret: 256 bits


def add_connections(app: FastAPI, connecting: Connecting, known: Callable[[Request], Any]) -> None:
    """Adds the routes for callers. `known` gives who asks."""

    async def writer(principal: Annotated[Principal, Depends(known)]) -> Principal:
        if principal.scopes == {"auditor"}:
            raise refuse("insufficient_scope", "A key with the scope auditor reads, and changes nothing.")
        return principal

    @app.get("/v1/connections")
    async def connections(principal: Annotated[Principal, Depends(known)]) -> JSONResponse:
        """The accounts of this caller's person."""
        found = connecting.all(Person.of(principal))
        return JSONResponse({"connections": [_account(each) for each in found]})

    @app.post("/v1/connections/{provider}", status_code=201)
    async def start(provider: str, principal: Annotated[Principal, Depends(writer)]) -> JSONResponse:
        """A link by which this caller's person connects an account."""
        return JSONResponse({"url": connecting.start(principal, provider)}, 201)

    @app.delete("/v1/connections/{provider}")
    async def disconnect(
        provider: str,
        principal: Annotated[Principal, Depends(writer)],
        user: str | None = None,
        agent: str | None = None,
    ) -> JSONResponse:
        """Ends the account of this caller's person; an operator may name another person of its tenant."""
        person = _person(principal, user, agent)
        if not await connecting.disconnect(person, provider, f"{principal.agent} ({principal.token_id})"):
            raise refuse("not_found", "No account is connected there.")
        return JSONResponse({"provider": provider, "disconnected": True})


def add_pages(app: FastAPI, connecting: Connecting) -> None:
    """Adds the browser's side."""
    secure = connecting.site.startswith("https:")  # else it is this machine
    cookie = f"__Host-{_NAME}" if secure else _NAME

    @app.get("/connect/callback", include_in_schema=False)
    async def back(request: Request) -> Response:
        """The provider sent the browser back."""
        try:
            said = _once(request.url.query[:_MAX_QUERY])
            return pages.connected(await connecting.finish(said, _browser(request, cookie)))
        except NotConnected as no:
            return pages.stopped(str(no))

    @app.get("/connect/{ticket}", include_in_schema=False)
    async def ask(ticket: str, request: Request) -> Response:
        """The page behind a link. Looking at it, as programs do that preview links, uses nothing up."""
        try:
            offer = connecting.offer(ticket)
        except NotConnected as no:
            return pages.stopped(str(no), 404)
        browser = _browser(request, cookie) or secrets.token_urlsafe(32)
        page = pages.asking(offer, ticket, _proof(browser, ticket).decode())
        # Lax: the way back from the provider is a navigation that another site began.
        page.set_cookie(cookie, browser, max_age=_LASTS, path="/", secure=secure, httponly=True, samesite="lax")
        return page

    @app.post("/connect/{ticket}", include_in_schema=False)
    async def agree(ticket: str, request: Request) -> Response:
        """The person agreed, in the browser that was shown the page."""
        browser, head = _browser(request, cookie), read_head(request.scope)
        if (head.get("content-type") or "").partition(";")[0].strip().lower() != _FORM:
            return pages.stopped("This is no form of this page.")
        form = dict(parse_qsl((await read_body(head, request.receive, _MAX_FORM)).decode("latin-1")))
        ours = head.get("sec-fetch-site") in (None, "same-origin")
        fits = browser is not None and hmac.compare_digest(_proof(browser, ticket), form.get("proof", "").encode())
        if browser is None or not ours or not fits:
            return pages.stopped("Open the link again, in a browser that takes cookies, and go on from there.", 403)
        try:
            url = connecting.go(ticket, browser)
        except NotConnected as no:
            return pages.stopped(str(no), 404)
        return RedirectResponse(url, 303, {"cache-control": "no-store", "referrer-policy": "no-referrer"})


def _person(principal: Principal, user: str | None, agent: str | None) -> Person:
    """Whose account is meant."""
    if user is None and agent is None:
        return Person.of(principal)
    if "operator" not in principal.scopes:
        raise refuse("insufficient_scope", "Only a key with the scope operator may name whose account it is.")
    if user is not None and agent is not None:
        raise refuse("malformed", "Name a user or an agent, not both.")
    return Person(principal.tenant, "agent", agent or "") if user is None else Person(principal.tenant, "user", user)


def _account(account: Connected) -> dict[str, Json]:
    person = account.person
    said: dict[str, Json] = {"provider": account.provider, "connected_at": account.at, "scope": account.scope}
    return said | {person.kind: person.name, "tenant": person.tenant}


def _once(query: str) -> dict[str, str]:
    """What stands in the query; nothing of it may stand twice (RFC 6749 §3.1)."""
    pairs = parse_qsl(query, keep_blank_values=True)
    if len({name for name, _ in pairs}) < len(pairs):
        raise NotConnected("The provider's answer says something twice. Nothing was connected.")
    return dict(pairs)


def _browser(request: Request, cookie: str) -> str | None:
    """The secret that this browser was given."""
    value = request.cookies.get(cookie)
    return value if value is not None and len(value) == _BROWSER and _SAFE.issuperset(value) else None


def _proof(browser: str, ticket: str) -> bytes:
    """What a form of ours says: who cannot read the page in this browser cannot know it."""
    return hmac.digest(browser.encode(), b"toolgate connect\x1f" + ticket.encode(), sha256).hex().encode()
