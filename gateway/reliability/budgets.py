"""What may be used up: whose accounts a call draws on, what it asks of them, what they give. It keeps nothing.

Budgets are said in the words of a file (`cost: 0.5`, `wall: 60` seconds) and counted in whole `admission.UNITS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

from gateway.admission import PARTIAL, UNITS, Account, Amounts, Bounds, Dimension, Warned
from gateway.model import Principal, Session

WARN_AT = 0.8  # of what an account may use up
_FOR_GOOD = 400 * 24 * 3600.0  # seconds
_BEYOND = 3600.0  # seconds after the end of a session in which its accounts are remembered, whatever clocks do
_SPANS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
_WHOLE: frozenset[str] = frozenset({"calls", "bytes", "tokens"})


def in_units(budget: Mapping[str, float]) -> Amounts:
    """A budget as it is counted: rounded down, so that nothing more is given than was said."""
    return {name: math.floor(budget[name] * unit + 1e-6) for name, unit in UNITS.items() if name in budget}


def in_words(amounts: Amounts) -> dict[str, float]:
    """The same as a file says it."""
    return {name: amounts[name] / UNITS[name] for name in UNITS if name in amounts}


def accounts(line: Sequence[Session], principal: Principal, bounds: Bounds, now: float) -> tuple[Account, ...]:
    """The accounts that a call of `line` (its session and those above it, nearest first) draws on."""
    found: list[Account] = []
    if any(each.budget for each in line):
        for number, each in enumerate(line):
            name = "session above" if number else "session"
            found.append(Account(session_key(each), name, in_units(each.budget), _left(each, now)))
    return (*found, *of_settings(principal, bounds, now, line)) if bounds.budgets else tuple(found)


def of_settings(principal: Principal, bounds: Bounds, now: float, line: Sequence[Session] = ()) -> tuple[Account, ...]:
    """The accounts that settings give a principal and its tenant, and the sessions of `line`, where it is given.

    What they give each session is one account for a session and all below it: opening more gives no more.
    """
    found: list[Account] = []
    for budget in bounds.budgets:
        if budget.over == "session" and not line:
            continue
        who = (
            line[-1].uid
            if budget.over == "session"
            else {"principal": principal.key}.get(budget.over, principal.tenant)
        )
        window = 0 if budget.within is None else math.floor(now / budget.within)
        lasts = _FOR_GOOD if budget.within is None else budget.within
        if budget.over == "session":
            lasts = min(lasts, _left(line[-1], now))
        found.append(Account(f"{budget.over}\x1f{who}\x1f{budget.within}\x1f{window}", budget.over, budget.most, lasts))
    return tuple(found)


def _left(session: Session, now: float) -> float:
    return max(0.0, session.expires_at - now) + _BEYOND


def session_key(session: Session) -> str:
    """The key of the account that a session's own budget is kept in."""
    return f"budget\x1f{session.uid}"


def granted(found: Sequence[Account], used: Mapping[str, Amounts], wants: Amounts) -> Amounts | str:
    """What all of them can give together, of `PARTIAL` as much as is left; else the sentence that says why not."""
    gives = dict(wants)
    for account in found:
        had = used.get(account.key, {})
        for dimension, most in account.most.items():
            left, want = most - had.get(dimension, 0), wants.get(dimension, 0)
            if left <= 0 and (dimension == "tokens" or (want > 0 and dimension in PARTIAL)):
                return lacking(account, dimension, had.get(dimension, 0), want)
            if dimension in PARTIAL:
                gives[dimension] = min(gives.get(dimension, 0), left) if want else 0
            elif want > left:
                return lacking(account, dimension, had.get(dimension, 0), want)
    return {dimension: amount for dimension, amount in gives.items() if amount}


def warns(account: Account, dimension: Dimension, before: int, after: int) -> bool:
    """Whether the account passes `WARN_AT` between the two."""
    line = account.most[dimension] * WARN_AT
    return before < line <= after


def lacking(account: Account, dimension: Dimension, used: int, want: int) -> str:
    """What the caller is told of an account that has not enough left."""
    most, spent = (in_words({dimension: amount})[dimension] for amount in (account.most[dimension], used))
    said = f"it is for {_amount(dimension, most)}{_each(account)}, {spent:g} are spent or under way"
    asked = f", and this costs {want / UNITS[dimension]:g}" if dimension == "cost" else ""
    until = " before its time begins anew" if window_of(account) else ""
    return f"The budget of {_whose(account)} is used up: {said}{asked}. Repeating the call does not help{until}."


def nearly(warned: Warned) -> str:
    """What the caller is told whose call brought an account near its end."""
    account, dimension = warned.account, warned.dimension
    most, used = (in_words({dimension: amount})[dimension] for amount in (account.most[dimension], warned.used))
    said = f"{used:g} of {_amount(dimension, most)}{_each(account)}"
    return f"The budget of {_whose(account)} is nearly used up: {said}. When it is, calls are refused."


def _whose(account: Account) -> str:
    names = {"session": "this session", "session above": "a session above this one"}
    return names.get(account.name, f"this {account.name}")


def _amount(dimension: Dimension, amount: float) -> str:
    unit = {"wall": " s", "sandbox": " s of sandboxes", "cost": ""}.get(dimension, f" {dimension}")
    return f"{'a cost of ' if dimension == 'cost' else ''}{amount:g}{unit}"


def _each(account: Account) -> str:
    within = window_of(account)
    if within is None:
        return ""
    size, unit = next((each for each in _SPANS if within % each[0] == 0), (1.0, "s"))
    return f" in each {within / size:g} {unit}"


def window_of(account: Account) -> float | None:
    """Seconds of its windows, which stand in the key, where it has some."""
    within = account.key.split("\x1f")[-2]
    return None if within in ("None", "budget") else float(within)


def unfit(budget: Mapping[str, float]) -> str | None:
    """What is wrong with a budget that somebody asks for; None when nothing is."""
    for name, most in budget.items():
        if name not in UNITS:
            return f"{name[:64]!r} is no dimension of a budget, only {', '.join(UNITS)} are"
        if not 0 <= most < math.inf or (name in _WHOLE and most != int(most)):
            return f"{name} is a whole number, 0 or more" if name in _WHOLE else f"{name} is a number, 0 or more"
        if most > 2**53 / UNITS[cast(Dimension, name)]:
            return f"{name} is too large"
    return None


def beyond(budget: Mapping[str, float], line: Sequence[Session]) -> str | None:
    """What of a budget is more than a session of `line` has, in which it is to be opened; None when nothing is."""
    for name, most in budget.items():
        above = min((each.budget[name] for each in line if name in each.budget), default=most)
        if most > above:
            return f"{name} is {most:g}, and the session above has {above:g}"
    return None
