"""What is wrong with a spec's sandbox beyond its shape: what it asks for must be what the backend gives.

Nothing is dropped in silence: a guarantee, a limit or a key that the backend cannot honour is a finding. It never
starts a backend; what each one gives comes in as an `Offer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.policy.findings import nearest
from gateway.specs.checks import Checks, properties
from gateway.specs.language import CodeShape, SandboxShape, ToolShape

_AT = ("runner", "sandbox")
_MIB = 1 << 20
_UNITS = {"wall": (1, " s"), "cpu": (1, ""), "pids": (1, ""), "host_calls": (1, "")}
_INTERPRETED = ("argument", "file")
# Which keys of `code` a backend knows; the source itself, as a text, is for those with an interpreter of their own.
_CODE = {
    "wasm-python": _INTERPRETED,
    "wasm-js": _INTERPRETED,
    "wasm": ("module",),
    "docker": (*_INTERPRETED, "image", "command"),
}
_NEEDED = {"wasm": "module", "docker": "image"}


@dataclass(frozen=True, slots=True)
class Offer:
    """What a sandbox backend can give here: its guarantees, and for each limit the least and the most (s, bytes).

    `images` are those it knows by name, name → `sha256:…`. `modules` are those that are registered, digest → what of a
    call such a program can reach: its `files`, the `calls` of tools.
    """

    guarantees: frozenset[str]
    limits: Mapping[str, tuple[float, float]]
    images: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, frozenset[str]] = field(default_factory=dict)


def check_sandbox(checks: Checks, shape: SandboxShape, tool: ToolShape, offers: Mapping[str, Offer]) -> None:
    """Notes what of the sandbox cannot be kept."""
    offer = offers.get(shape.backend)
    if offer is None:
        checks.note(f"there is no backend {shape.backend!r}: {nearest(shape.backend, offers)}", *_AT, "backend")
        return
    _code(checks, shape, tool, offer)
    for place, name in enumerate(shape.require):
        if name not in offer.guarantees:
            others = sorted(each for each, other in offers.items() if name in other.guarantees)
            hint = f"{' and '.join(others)} can" if others else nearest(name, offer.guarantees)
            checks.note(f"{shape.backend} does not guarantee {name!r}: {hint}", *_AT, "require", place)
    for key, value in shape.limits.model_dump(exclude_none=True).items():
        _limit(checks, offer, key, value, *_AT, "limits", key)
    if shape.files.out is not None:
        _limit(checks, offer, "files_out", shape.files.out, *_AT, "files", "out")
    if shape.files.in_ is not None:
        _files_in(checks, tool)
    for place, entry in enumerate(shape.network.allow if shape.network else []):
        checks.entry(entry, *_AT, "network", "allow", place)
    if tool.secrets and not shape.network:
        checks.note("a credential of a sandboxed tool goes with what its `network` allows, and it has none", "secrets")


def image_id(shape: SandboxShape, offer: Offer | None) -> str:
    """The id of the image a spec names: `sha256:…`, or "" for a name nothing is known of here."""
    named = shape.code.image if isinstance(shape.code, CodeShape) and shape.code.image else ""
    if "sha256:" in named:
        return named[named.index("sha256:") :]
    return offer.images.get(named, "") if offer else ""


def _code(checks: Checks, shape: SandboxShape, tool: ToolShape, offer: Offer) -> None:
    allowed, needed = _CODE[shape.backend], _NEEDED.get(shape.backend)
    if not isinstance(shape.code, CodeShape):
        if needed:
            checks.note(f"{shape.backend} needs `code: {{{needed}: …}}`", *_AT, "code")
        return
    given = shape.code.model_fields_set
    for key in sorted(given - set(allowed)):
        checks.note(f"{shape.backend} has no {key}: it takes {', '.join(allowed)}", *_AT, "code", key)
    if needed and needed not in given:
        checks.note(f"{shape.backend} needs `code: {{{needed}: …}}`", *_AT, "code")
    if shape.code.argument is not None:
        checks.argument(shape.code.argument, "string", tool, *_AT, "code", "argument")
    if shape.code.module is not None and shape.backend == "wasm":
        _module(checks, shape, offer.modules.get(shape.code.module))


def _module(checks: Checks, shape: SandboxShape, reaches: frozenset[str] | None) -> None:
    if reaches is None:
        checks.note("no such module here: register it with `toolgate modules add FILE`", *_AT, "code", "module")
        return
    if "files" not in reaches and (shape.files.in_ or shape.files.out):
        checks.note("this module has no files: it does not import path_open", *_AT, "files")
    for key in ("tools", "network"):
        if "calls" not in reaches and getattr(shape, key):
            checks.note("this module calls no tools: it imports none of their functions", *_AT, key)


def _limit(checks: Checks, offer: Offer, key: str, value: float, *path: str | int) -> None:
    if key not in offer.limits:
        checks.note(f"there is no limit {path[-1]!r} here: {nearest(str(path[-1]), offer.limits)}", *path)
        return
    low, high = offer.limits[key]
    if not low <= value <= high:
        scale, unit = _UNITS.get(key, (_MIB, " MiB"))
        bounds = f"lies between {low / scale:g} and" if low < high else "is always"
        checks.note(f"{path[-1]} {bounds} {high / scale:g}{unit}", *path)


def _files_in(checks: Checks, tool: ToolShape) -> None:
    schema = properties(tool).get("files")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        checks.note(
            "files come in by an argument `files` of `type: object`: name of the file → handle", *_AT, "files", "in"
        )
