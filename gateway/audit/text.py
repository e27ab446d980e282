"""One line of text per record, for a person at a terminal. It never decrypts, and shows no control characters."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.tool import Json


def render(record: Mapping[str, Json]) -> str:
    """Time (UTC), position, type, agent, tool, then what matters for that type; what is absent is left out."""
    place = f"{record['shard']}:{record['seq']}"
    who = [_text(_in(record, "principal", "agent")), _text(_in(record, "tool", "name"))]
    parts = [str(record["ts"])[11:23], f"{place:<9}", f"{record['type']!s:<13}", *who, *_what(record)]
    return " ".join(part for part in map(printable, parts) if part).rstrip()


def _what(record: Mapping[str, Json]) -> list[str]:
    type_ = str(record["type"])
    if type_.startswith("log."):
        names = ("size", "root", "dropped_bytes", "last_seq", "after")
        return [f"{name}={_text(record[name])[:80]}" for name in names if name in record]
    if type_.startswith("policy."):
        return _policy(record)
    if type_ == "admin.read":
        count = record.get("count")
        uid = _in(record, "who", "uid")
        return [
            _text(record.get("verb")),
            "" if uid is None else f"uid={_text(uid)}",
            "" if count is None else f"records={_text(count)}",
        ]
    if type_ == "payload.erased":
        sessions = record.get("sessions")
        return [
            f"sessions={len(sessions) if isinstance(sessions, list) else 0}",
            f"why={_text(record.get('why'))[:200]}",
        ]
    if type_ == "key.rotated":
        return [f"new={_text(record.get('new'))[:120]}", f"why={_text(record.get('why'))[:200]}"]
    if type_.startswith("session."):
        told = [f"{name}={_text(record[name])}" for name in ("why", "calls", "parent") if record.get(name) is not None]
        return [_text(record.get("session_id")), *told]
    if type_.startswith(("admin.", "account.", "credential.")):
        whose = record.get("whose")
        named = [f"{name}={_text(value)}" for name, value in whose.items() if value] if isinstance(whose, dict) else []
        given = [name for name in ("key", "provider", "credential_id", "session_id", "why") if record.get(name)]
        return [*named, *(f"{name}={_text(record[name])[:200]}" for name in given)]
    if type_.startswith("approval.") or type_.endswith(".warned"):
        return _said(record)
    rules = _in(record, "decision", "rules")
    ms = _in(record, "usage", "wall_ms")
    rule = _in(record, "outcome", "rule") or (rules[0] if isinstance(rules, list) and rules else None)
    return [
        _text(_in(record, "outcome", "status") or _in(record, "decision", "effect")),
        _text(_in(record, "outcome", "code")),
        f"rule={_text(rule)}" if rule else "",
        f"{ms:.1f}ms" if isinstance(ms, int | float) else "",
        f"as={_text(record['as'])}" if "as" in record else "",
        f"intent={record['intent']}" if "intent" in record else "",
        _text(record.get("call_id")),
        f"parent={record['parent_call_id']}" if "parent_call_id" in record else "",
        f"repeat_of={record['repeat_of']}" if "repeat_of" in record else "",
        f"approval={_text(_in(record, 'approval', 'id'))}" if "approval" in record else "",
        f"answered_by={_text(record['answered_by'])}" if "answered_by" in record else "",
        f"attempt={_text(record['attempt'])}" if "attempt" in record and "answered_by" not in record else "",
    ]


def _said(record: Mapping[str, Json]) -> list[str]:
    """What people were asked and said, and what a session was warned of."""
    needs, rules, tools = record.get("needs"), record.get("rules"), record.get("tools")
    if isinstance(needs, list):
        rules = [_in(each, "rule") for each in needs if isinstance(each, dict)]
    return [
        _text(_in(record, "approval", "id")),
        ("yes" if record["yes"] else "no") if "yes" in record else "",
        f"rule={','.join(map(_text, rules))}" if isinstance(rules, list) else "",
        f"by={_text(_in(record, 'by', 'person') or 'the requester')}" if "by" in record else "",
        ",".join(map(_text, tools)) if isinstance(tools, list) else "",
        f"times={_text(record['times'])}" if "times" in record else "",
        f"over={_text(record['over'])}" if "over" in record else "",
        f"{_text(record['dimension'])}={record['used']:g}/{record['most']:g}" if "dimension" in record else "",
        _text(record.get("call_id")),
    ]


def _policy(record: Mapping[str, Json]) -> list[str]:
    """Which bundle came in force, or which stayed because of the first of so many findings."""
    said = record.get("findings")
    first = _text(said[0])[:200] if isinstance(said, list) and said else ""
    return [
        "candidate" if record.get("candidate") else "",
        f"bundle={_text(record['bundle_digest'])}" if record.get("bundle_digest") else "",
        f"findings={_text(record.get('count', said))}" if said else "",
        first,
    ]


def _in(record: Mapping[str, Json], *names: str) -> Json:
    value: Json = record
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(value: Json) -> str:
    return "" if value is None else str(value)


def printable(text: str) -> str:
    """The text with every control, bidi or invisible character spelled out: others wrote it, a terminal obeys it."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
