"""Records in the shapes that other systems read: JSON lines, OCSF API Activity 1.3.0, CloudEvents 1.0. Pure.

What a record holds sealed stands in none of them, unless it is given in the clear. It reads no file and opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from gateway.audit.query import Record, Shown

Form = dict[str, Any]
Format = Literal["jsonl", "ocsf", "cloudevents"]

OCSF = "1.3.0"
_API_ACTIVITY, _OTHER = 6003, 99
_ENDS = frozenset({"call.outcome", "call.refused", "call.parked", "call.in_doubt", "call.resolved"})
_STATUS = {"done": (1, "Success"), "failed": (2, "Failure"), "refused": (2, "Failure"), "parked": (99, "Other")}
_NOT_KNOWN = (0, "Unknown")
_DELAYED = 14
_EVENTS = {"call.intent": "call.started"} | dict.fromkeys(
    ("call.outcome", "call.refused", "call.parked"), "call.completed"
)
_APART = ("tenant", "parent_call_id", "args_digest", "raw_digest", "shown_digest", "labels_added", "screen", "network")


def exporter(kind: Format, gateway: str, version: str, *, content: bool) -> Callable[[Shown], Iterator[Form]]:
    """What makes zero or one form of each record, given in order. `gateway` is its name, `version` that of Toolgate.

    `content`: what was opened of a record stands in the form as well.
    """
    if kind == "ocsf":
        return Ocsf(gateway, version, content=content).take
    if kind == "cloudevents":
        return lambda shown: iter([cloud_event(plain(shown, content=content), gateway)])
    return lambda shown: iter([plain(shown, content=content)])


def plain(shown: Shown, *, content: bool) -> Form:
    """The record without what is sealed; with `content`, that in the clear, or in `unreadable` why it cannot be."""
    said = {name: value for name, value in shown.record.items() if name != "content"}
    if content and shown.unreadable:
        return said | {"unreadable": shown.unreadable}
    return said | {"content": shown.content} if content and "content" in shown.record else said


def cloud_event(record: Mapping[str, Any], gateway: str) -> Form:
    """A record as a CloudEvents 1.0 event in structured JSON. `source` and `id` together are the record's place."""
    kind = str(record["type"])
    event = {
        "specversion": "1.0",
        "id": f"{record['shard']}:{record['seq']}",
        "source": f"/gateways/{gateway}/audit/{record['shard']}",
        "type": f"dev.toolgate.{_EVENTS.get(kind, kind)}.v1",
        "time": record["ts"],
        "datacontenttype": "application/json",
        "data": dict(record),
    }
    return event | {"subject": record["call_id"]} if "call_id" in record else event


class Ocsf:
    """One API Activity event for each end of a call: outcome, refusal, wait, doubt, and an operator's word on it.

    What the intent says of the call is in the event too, where the intent was among the records.
    """

    def __init__(self, gateway: str, version: str, *, content: bool) -> None:
        self._product = {"name": "Toolgate", "vendor_name": "Toolgate", "version": version, "uid": gateway}
        self._service = {"name": "toolgate", "version": version, "uid": gateway}
        self._content = content
        self._begun: dict[str, Shown] = {}

    def take(self, shown: Shown) -> Iterator[Form]:
        """The event that this record completes, if it does."""
        record, call_id = shown.record, str(shown.record.get("call_id"))
        if record["type"] == "call.intent":
            self._begun[call_id] = shown
        elif record["type"] in _ENDS:
            asked = self._begun.get(call_id) if record["type"] == "call.in_doubt" else self._begun.pop(call_id, None)
            yield self._event(asked or shown, shown)

    def _event(self, asked: Shown, ended: Shown) -> Form:
        call: Form = {
            **asked.record,
            **ended.record,
            **{name: _part(asked.record, name) for name in ("principal", "tool")},
        }
        status, status_id, said = _ended(ended.record)
        who, tool = _part(call, "principal"), _part(call, "tool")
        event: Form = {
            "activity_id": _OTHER,
            "activity_name": "Call",
            "category_uid": 6,
            "category_name": "Application Activity",
            "class_uid": _API_ACTIVITY,
            "class_name": "API Activity",
            "type_uid": _API_ACTIVITY * 100 + _OTHER,
            "type_name": "API Activity: Other",
            "time": _milliseconds(ended.record),
            "severity_id": _severity(status_id),
            "status_id": status_id,
            "status": status,
            "message": f"{who.get('agent')} called {tool.get('name')}: {said}",
            "metadata": self._metadata(ended.record),
            "actor": _actor(call, who),
            "api": _api(ended.record, tool) | {"service": self._service},
            # The ledger keeps no network address of a caller: the agent is the endpoint.
            "src_endpoint": {"name": str(who.get("agent"))},
            "unmapped": self._unmapped(asked, ended, call),
        }
        if "opened_at" in call:
            event["start_time"] = int(call["opened_at"] * 1000)
        if "wall_ms" in _part(call, "usage"):
            event["duration"] = round(call["usage"]["wall_ms"])
        if code := _part(ended.record, "outcome").get("code"):
            event["status_code"] = code
        return event | _control(call, ended.record)

    def _metadata(self, record: Record) -> Form:
        return {
            "version": OCSF,
            "product": self._product,
            "profiles": ["security_control"],
            "uid": f"{record['shard']}:{record['seq']}",
            "sequence": record["seq"],
            "log_name": record["shard"],
            "original_time": record["ts"],
            "correlation_uid": record["call_id"],
        }

    def _unmapped(self, asked: Shown, ended: Shown, call: Form) -> Form:
        """What OCSF has no place for; with content, what was asked and what was answered."""
        said = {name: call[name] for name in _APART if name in call}
        if self._content:
            said["asked"] = _content(asked)
            if ended is not asked:
                said["answered"] = _content(ended)
        return said


def _api(ended: Record, tool: Mapping[str, Any]) -> Form:
    api: Form = {"operation": str(tool.get("name")), "request": {"uid": ended["call_id"]}}
    if tool.get("version"):
        api["version"] = tool["version"]
    code = _part(ended, "outcome").get("code")
    return api | {"response": {"error": code}} if code else api


def _content(shown: Shown) -> Any:
    return {"unreadable": shown.unreadable} if shown.unreadable else shown.content


def _ended(record: Record) -> tuple[str, int, str]:
    """Status and status_id as OCSF has them, and how it ended in our own word."""
    said = {"call.in_doubt": "in doubt", "call.resolved": str(record.get("as"))}.get(
        str(record["type"]), str(_part(record, "outcome").get("status"))
    )
    status_id, status = _STATUS.get("failed" if said == "not-done" else said, _NOT_KNOWN)
    return status, status_id, said


def _severity(status_id: int) -> int:
    """Informational for success and for a wait, low for failure, medium for a call of which nobody knows."""
    return {1: 1, 2: 2, 99: 1}.get(status_id, 3)


def _control(call: Mapping[str, Any], ended: Record) -> Form:
    """The profile `security_control`: what was decided, and by which rule of which policy."""
    refused = ended["type"] == "call.refused" or _part(ended, "outcome").get("status") == "refused"
    decision = _part(call, "decision")
    form: Form = {"action_id": 2, "disposition_id": 2} if refused else {"action_id": 1, "disposition_id": 1}
    if ended["type"] == "call.parked":
        form = {"action_id": 2, "disposition_id": _DELAYED}
    if decision:
        rules = decision.get("rules") or [decision.get("code")]
        policies = [{"name": str(rule), "uid": str(decision.get("bundle_digest"))} for rule in rules]
        form["authorizations"] = [{"decision": decision.get("effect"), "policy": policy} for policy in policies]
    return form


def _actor(call: Mapping[str, Any], who: Mapping[str, Any]) -> Form:
    actor: Form = {"app_name": str(who.get("agent"))}
    if who.get("token_id"):
        actor["app_uid"] = who["token_id"]
    if call.get("session_id"):
        actor["session"] = {"uid": call["session_id"]}
    if who.get("user"):
        actor["user"] = {
            "name": who["user"],
            "type_id": 1,
            "groups": [{"name": name} for name in who.get("groups") or ()],
        }
    return actor


def _milliseconds(record: Record) -> int:
    """When it was written, in unix milliseconds: the upper part of the hybrid logical clock."""
    return int(str(record["hlc"]), 16) >> 16


def _part(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = value.get(name)
    return part if isinstance(part, Mapping) else {}
