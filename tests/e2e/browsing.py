"""A browser as a script: cookies, forms and redirects between the gateway and a provider, one step at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from tests.e2e.granted import Reply, ask


@dataclass
class Browser:
    """Of one person: `user` is signed in at the provider."""

    user: str
    cookies: dict[str, str] = field(default_factory=dict)

    def open(self, url: str) -> Reply:
        """One GET, no redirect followed."""
        return self._send("GET", url)

    def agree(self, link: str, page: Reply, **more: str) -> Reply:
        """Sends the form of a page."""
        proof = re.search(r'name="proof" value="([0-9a-f]+)"', page.body.decode())
        origin = {"Origin": "http://" + urlsplit(link).netloc, "Sec-Fetch-Site": "same-origin", **more}
        return self._send("POST", link, urlencode({"proof": proof.group(1) if proof else ""}), **origin)

    def consent(self, url: str) -> str:
        """Signed in at the provider; where that sends the browser."""
        at = urlsplit(url)
        assert at.port is not None
        reply = ask(at.port, "GET", f"{at.path}?{at.query}", Cookie=f"user={self.user}")
        assert reply.status == 302, reply.body
        return reply.headers["location"]

    def connect(self, link: str) -> Reply:
        """The whole way, from a link to the last page."""
        begun = self.agree(link, self.open(link))
        assert begun.status == 303, begun.body
        return self.open(self.consent(begun.headers["location"]))

    def _send(self, method: str, url: str, body: str | None = None, **headers: str) -> Reply:
        at = urlsplit(url)
        assert at.port is not None
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        reply = ask(at.port, method, f"{at.path}?{at.query}" if at.query else at.path, None, body, **headers)
        if (given := reply.headers.get("set-cookie")) is not None:
            name, _, value = given.partition(";")[0].partition("=")
            self.cookies[name] = value
        return reply
