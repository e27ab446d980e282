"""A second CEL engine behind the port of `gateway/policy/engine.py`: the Rust one, for comparison only.

The gateway never uses it. It has no type checker, so whatever parses compiles; it raises where the first one gives an
error as a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cel

from gateway.policy.engine import BadExpression, Truth, Unbindable
from gateway.tool import Json


class Bound:
    """Variables by full name, nested as this engine wants them, and made into a context once for each container."""

    def __init__(self, variables: Mapping[str, Json]) -> None:
        self._nested: dict[str, Any] = {}
        self._made: dict[str, cel.Context] = {}
        for name, value in variables.items():
            *path, last = name.split(".")
            below = self._nested
            for step in path:
                below = below.setdefault(step, {})
            below[last] = value

    def within(self, container: str) -> cel.Context:
        """The context of expressions in a container, whose own names stand before all others."""
        if container not in self._made:
            self._made[container] = cel.Context(variables={**self._nested, **self._nested.get(container, {})})
        return self._made[container]


class Program:
    """One compiled clause."""

    def __init__(self, compiled: cel.Program, container: str) -> None:
        self._compiled = compiled
        self._container = container

    def eval(self, bound: Bound) -> Truth:
        """The verdict: TRUE and FALSE only for the Python bools themselves."""
        try:
            found = self._compiled.execute(bound.within(self._container))
        except (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError):
            return Truth.ERROR
        return Truth.TRUE if found is True else Truth.FALSE if found is False else Truth.ERROR


class Scope:
    """The variables an expression may name; this engine asks for no types and takes any name."""

    def __init__(self, variables: Mapping[str, str], container: str = "") -> None:
        self._container = container

    def compile(self, text: str) -> Program:
        """Parses. Raises BadExpression."""
        try:
            return Program(cel.compile(text), self._container)
        except ValueError as error:
            raise BadExpression(1, 1, str(error)) from None


def bind(variables: Mapping[str, Json]) -> Bound:
    """Raises Unbindable."""
    bound = Bound(variables)
    try:
        bound.within("")
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise Unbindable(str(error)) from None
    return bound
