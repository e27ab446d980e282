"""The pages that a person sees who connects an account: plain HTML, no script, nothing unescaped, framed by nobody.

They decide nothing; whatever stands in them is passed in.
"""

from __future__ import annotations

import base64
from hashlib import sha256
from html import escape

from fastapi.responses import HTMLResponse

from gateway.accounts import Connected, Offer, Person

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:0;background:#f4f4f2;color:#1c1c1c}"
    "main{max-width:36rem;margin:8vh auto;padding:2rem;background:#fff;border:1px solid #ccc;border-radius:.5rem}"
    "h1{font-size:1.4rem;margin-top:0}.stop{border-left:.3rem solid #b00020;padding-left:1rem}"
    "button{font:inherit;padding:.6rem 1rem;border:0;border-radius:.3rem;background:#1c4587;color:#fff;cursor:pointer}"
    "code{overflow-wrap:anywhere}"
)
_STYLE_DIGEST = base64.b64encode(sha256(_STYLE.encode()).digest()).decode()


def asking(offer: Offer, ticket: str, proof: str) -> HTMLResponse:
    """Who is about to give what to whom; and that whoever is not that person must stop."""
    who, provider, site = _agents(offer.person), shown(offer.provider), shown(offer.site)
    name = shown(offer.person.name)
    you = name if offer.person.kind == "user" else f"the person who runs agent {name}"
    scopes = "".join(f"<li><code>{shown(each)}</code></li>" for each in offer.scopes)
    asked = f"<p>They ask for:</p><ul>{scopes}</ul>" if scopes else ""
    body = f"""<h1>Connect an account at {provider}</h1>
<p>{who} may use an account at <strong>{provider}</strong> (<code>{site}</code>), if you say so.</p>{asked}
<p>If you go on, you sign in there with <em>your</em> account. From then on they act with it, as you, until it is
disconnected.</p>
<p class="stop"><strong>Are you {you}?</strong> This page cannot see who you are. If you are not {you}, or if somebody
else sent you this link, stop here and close the page: you would give your account to somebody else.</p>
<form method="post" action="/connect/{shown(ticket)}"><input type="hidden" name="proof" value="{shown(proof)}">
<button type="submit">I am {you}: go on to {site}</button></form>"""
    return _page("Connect an account", body, 200, offer.site)


def connected(account: Connected) -> HTMLResponse:
    """It is done."""
    body = f"""<h1>Connected</h1>
<p>{_agents(account.person)} can use the account at <strong>{shown(account.provider)}</strong> from now on.
You can close this page, and tell the agent to try again.</p>
<p>Is that not you? Then have the account disconnected, and take the access back at the provider.</p>"""
    return _page("Connected", body, 200)


def stopped(why: str, status: int = 400) -> HTMLResponse:
    """It cannot go on."""
    return _page("Not connected", f"<h1>Not connected</h1><p>{shown(why)}</p>", status)


def shown(text: str) -> str:
    """Text that may come from anywhere, as HTML shows it: what is not printable, or turns direction, is written out."""
    return escape("".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text))


def _agents(person: Person) -> str:
    """Who gets to use an account of this person."""
    whole = f"<strong>{person.kind} {shown(person.name)} of tenant {shown(person.tenant)}</strong>"
    return f"Agents that work for {whole}" if person.kind == "user" else f"The {whole}"


def _page(title: str, body: str, status: int, site: str = "") -> HTMLResponse:
    text = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} – Toolgate</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>
{body}
</main></body></html>"""
    # A browser holds `form-action` against every redirect that follows a form: the provider's own may lead further.
    forms = f"form-action 'self' https: {site}".strip() if site else "form-action 'none'"
    policy = f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; {forms}; frame-ancestors 'none'; base-uri 'none'"
    headers = {
        "content-security-policy": policy,
        "x-frame-options": "DENY",
        "x-content-type-options": "nosniff",
        "cross-origin-opener-policy": "same-origin",
        # Not `no-referrer`: then a browser would send our own form with the origin `null`.
        "referrer-policy": "same-origin",
        "cache-control": "no-store",
    }
    return HTMLResponse(text, status, headers)
