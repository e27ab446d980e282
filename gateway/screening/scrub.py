"""What a tool gave, as it may be kept on record: as it came, but without any secret that the gateway issued.

A backend may echo its credential, and what is on record is opened by others than those who may hold it. It takes out
nothing else: what screening held back for another reason is on record as it came.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.model import RawOutput
from gateway.screening.canonical import canonical
from gateway.screening.leaves import SEPARATOR, Leaves, NotJson, gather, rebuild
from gateway.screening.secrets import IssuedSecrets
from gateway.tool import Json


def scrubbed(raw: RawOutput, secrets: IssuedSecrets) -> RawOutput:
    """The same result when no secret stands in it; else its canonical text and structured output without them.

    Structured output that is not JSON cannot be searched, and is left out. Linear in the size of the result.
    """
    if not secrets:
        return raw
    numbers = secrets.numeric
    structured, leaves = _leaves(raw.structured, numbers)
    strings = [canonical(string) for string in (raw.text, *leaves.strings)]
    clean, found = secrets.redact(SEPARATOR.join(strings))
    if not found:
        return raw if structured is raw.structured else replace(raw, structured=structured)
    text, *rest = clean.split(SEPARATOR)
    return replace(raw, text=text, structured=rebuild(structured, rest, numbers))


def _leaves(structured: Json, numbers: bool) -> tuple[Json, Leaves]:
    try:
        return structured, gather(structured, numbers)
    except NotJson:
        return None, Leaves()
