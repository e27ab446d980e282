"""The Lua scripts beside this module, asked over one link: by digest, and by their text where Redis does not know it.

It knows nothing of what they do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from gateway.stores.resp import Address, Link, Refused, Reply, Words

NAMES = ("take", "settle", "look", "end", "report", "adopt", "fold", "join", "seed", "erase", "forget", "leave")
TEXTS = {name: Path(__file__).with_name(f"{name}.lua").read_text(encoding="ascii") for name in NAMES}
_DIGESTS = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in TEXTS.items()}


def link(address: Address) -> Link:
    """A link on which the scripts are known."""
    return Link(address, list(TEXTS.values()))


def evaluation(name: str, keys: Sequence[str], words: Words, text: bool = False) -> Words:
    """The command that runs a script."""
    if text:
        return ("EVAL", TEXTS[name], len(keys), *keys, *words)
    return ("EVALSHA", _DIGESTS[name], len(keys), *keys, *words)


def unknown(error: Refused) -> bool:
    """Whether Redis has forgotten the scripts (SCRIPT FLUSH)."""
    return str(error).startswith("NOSCRIPT")


async def run(over: Link, name: str, keys: Sequence[str], words: Words, again: bool = True) -> Reply:
    """What a script answers; `again` unless it must not run twice. Raises `Unanswered` or `Refused`."""
    try:
        return await over.ask(*evaluation(name, keys, words), again=again)
    except Refused as error:
        if not unknown(error):
            raise
    return await over.ask(*evaluation(name, keys, words, text=True), again=again)
