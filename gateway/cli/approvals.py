"""`toolgate approvals`: what waits for a person, and the answer to it, through a running gateway with a person's key.

What is shown was made safe by the gateway, and is made so once more here. It never answers by itself.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from gateway.cli.call import ask
from gateway.cli.common import Arguments, Verbs, home_of, say, when

_STATES = ("pending", "granted", "denied", "used", "expired")


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    verb = verbs.add_parser("approvals", help="calls that wait for a person: list, show, approve, deny")
    what = verb.add_subparsers(dest="what", required=True)
    where = ArgumentParser(add_help=False)
    where.add_argument("--url", help="gateway to ask (default: the one started from this home)")
    where.add_argument("--key", help="key of a person with the scope operator or approver; better as TOOLGATE_KEY")
    listing = what.add_parser("list", parents=[common, where], help="what waits, oldest first")
    listing.add_argument("--state", choices=(*_STATES, "any"), default="pending", help="default pending")
    listing.set_defaults(run=list_approvals)
    show = what.add_parser("show", parents=[common, where], help="what is asked, with its arguments and preview")
    show.add_argument("id")
    show.set_defaults(run=show_approval)
    for name, said in (("approve", "say yes, for every rule that you may answer"), ("deny", "say no")):
        answer = what.add_parser(name, parents=[common, where], help=said)
        answer.add_argument("id")
        answer.add_argument("--why", default="", help="the reason; after a no, the model is told")
        answer.set_defaults(run=answer_approval)


def list_approvals(arguments: Arguments) -> int:
    """One line for each. Exit 0, also when there is none."""
    found: list[Any] = []
    cursor: str | None = None
    while True:
        asked = {} if arguments.state == "any" else {"state": arguments.state}
        said = _ask(arguments, "GET", "?" + urlencode(asked | ({"cursor": cursor} if cursor else {})))
        if said is None:
            return 1
        found += said["approvals"]
        cursor = said["next_cursor"]
        if cursor is None:
            break
    say(arguments, found, "\n".join(map(_row, found)) or "nothing waits for a person")
    return 0


def show_approval(arguments: Arguments) -> int:
    """All of one."""
    said = _ask(arguments, "GET", f"/{quote(arguments.id, safe='')}")
    if said is None:
        return 1
    say(arguments, said, "\n".join(_lines(said)))
    return 0


def answer_approval(arguments: Arguments) -> int:
    """Answers one, and says what comes of it."""
    path = f"/{quote(arguments.id, safe='')}/{arguments.what}"
    said = _ask(arguments, "POST", path, {"why": arguments.why})
    if said is None:
        return 1
    open_ = [f"{each['rule']} by {' or '.join(each['by'])}" for each in said["needs"] if each["open"]]
    waits = f"; still needed: {', '.join(open_)}" if said["state"] == "pending" else ""
    say(arguments, said, f"{said['id']}: {said['state']}{waits}")
    return 0


def _ask(arguments: Arguments, method: str, path: str, body: Any = None) -> Any:
    """What the gateway says; None when it refused, which is told."""
    key = arguments.key or os.environ.get("TOOLGATE_KEY")
    if key is None:
        print(
            "toolgate: approvals take a person's own key, in TOOLGATE_KEY or --key; to make one: "
            "toolgate keys create --scope approver --person NAME",
            file=sys.stderr,
        )
        raise SystemExit(2)
    url = arguments.url
    if url is None:
        known = home_of(arguments).read_credentials()
        url = known[0] if known else "http://127.0.0.1:8080"
    headers = {"Authorization": f"Bearer {key}"} | ({"Content-Type": "application/json"} if body is not None else {})
    try:
        status, said = ask(url, method, f"/v1/approvals{path}", body, headers)
    except (OSError, ValueError) as error:
        print(f"toolgate: no gateway answers at {url}: {error}", file=sys.stderr)
        return None
    if status != 200:
        say(arguments, said, f"refused: {said.get('title')} ({said.get('code')}): {said.get('detail')}")
        return None
    return said


def _row(each: Mapping[str, Any]) -> str:
    yours = "  yours to answer" if each["yours"] else ""
    until = when(each["expires_at"])
    return f"{each['id']}  {each['state']:8} until {until}  {each['tool']['name']} by {_who(each)}{yours}"


def _who(said: Mapping[str, Any]) -> str:
    return f"{said['agent']} for {said['user']}" if said["user"] else str(said["agent"])


def _lines(said: Mapping[str, Any]) -> Iterator[str]:
    yield f"{said['id']}: {said['state']}, until {when(said['expires_at'])}"
    yield f"  {said['tool']['name']} ({said['tool']['digest']}) called by agent {_who(said)}, {said['call_id']}"
    for each in said["needs"]:
        yield f"  rule {each['rule']}: {'needs a yes by' if each['open'] else 'has a yes by'} {' or '.join(each['by'])}"
    for each in said["answers"]:
        yes, why = "yes" if each["yes"] else "no", f": {each['why']}" if each["why"] else ""
        yield f"  {each['person'] or 'the requester'} said {yes}, {when(each['at'])}{why}"
    if said["used_by"]:
        yield f"  used up by {said['used_by']}"
    yield f"  arguments, {said['arguments_digest']}"
    # The bar keeps what others wrote from looking like what is written here.
    yield from (f"  | {line}" for line in said["shown"].split("\n"))
    if said["preview"] is not None:
        yield "  preview"
        yield from (f"  | {line}" for line in said["preview"].split("\n"))
    yield f"  yours to answer: {', '.join(said['yours']) or 'nothing'}"
