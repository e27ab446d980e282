"""Random CEL expressions and variables for them, from a seeded generator: well-typed for the most part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from gateway.tool import Json

TYPES: Mapping[str, str] = {
    "args": "any",
    "principal.user": "any",
    "session.cost": "double",
    "session.calls": "int",
    "session.labels": "strings",
    "tool.name": "string",
    "now": "int",
    "p0.v.hosts": "strings",
}
STRINGS = ["", "a", "acme.com", "É", "日本", "🙂x", "ß", "A", "10", "true", "\u202e", "e\u0301", "a.b", "x" * 40]
INTS = [0, 1, -1, 2, 3, 5, 7, 100, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), -(2**63) + 1, 2**63 - 2]
DOUBLES = [0.0, -0.0, 1.0, 1.5, -2.5, 0.1, 1e308, 5e-324, 9007199254740993.0, 9.3e18]
PATTERNS = ["^a", "a$", "^[a-z.]+$", ".", "É", "(a|b)*c", "\\\\d+", "(?i)ACME"]
MOMENTS = ["2026-01-01T00:00:00Z", "1970-01-01T00:00:01Z", "2026-03-29T01:30:00+01:00"]
SPANS = ["1h", "90s", "0s", "-1m", "1.5s"]
FIELDS = ["s", "n", "d", "b", "l", "m", "u", "none", "gone"]


class Writer:
    """Writes expressions of a kind, not deeper than asked."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._kinds: dict[str, list[Callable[[int], str]]] = {
            "bool": [self._compare, self._compare, self._listed, self._text_test, self._junction, self._quantifier],
            "int": [self._int, self._int, self._size, self._sum("int", "+-*/%"), self._choice("int")],
            "double": [self._double, self._double, self._sum("double", "+-*/"), self._choice("double")],
            "string": [self._string, self._string, self._sum("string", "+"), self._choice("string")],
            "list": [self._list, self._list, self._sum("list", "+"), self._sieve],
            "time": [self._time, self._later],
            "dyn": [self._field],
        }
        self._kinds["bool"] += [self._has, self._field, self._not, self._choice("bool"), self._time_test]

    def write(self, kind: str, depth: int) -> str:
        """An expression of a kind: bool, int, double, string, list, time, dyn."""
        ways = self._kinds[kind] if depth > 0 else self._kinds[kind][:1]
        return self._random.choice(ways)(depth - 1)

    def _pick(self, *words: str) -> str:
        return self._random.choice(words)

    def _compare(self, depth: int) -> str:
        kind = self._pick("int", "double", "string", "dyn", "int", "string", "list")
        other = kind if self._random.random() < 0.8 else "dyn"
        operators = ("==", "!=") if kind == "list" else ("==", "!=", "<", "<=", ">", ">=")
        return f"{self.write(kind, depth)} {self._pick(*operators)} {self.write(other, depth)}"

    def _junction(self, depth: int) -> str:
        return f"({self.write('bool', depth)} {self._pick('&&', '||')} {self.write('bool', depth)})"

    def _not(self, depth: int) -> str:
        return f"!({self.write('bool', depth)})"

    def _listed(self, depth: int) -> str:
        return f"{self.write(self._pick('string', 'dyn', 'int'), depth)} in {self.write('list', depth)}"

    def _text_test(self, depth: int) -> str:
        text = self.write(self._pick("string", "dyn"), depth)
        if self._random.random() < 0.3:
            return f'{text}.matches("{self._pick(*PATTERNS)}")'
        return f"({text}).{self._pick('startsWith', 'endsWith', 'contains')}({self.write('string', depth)})"

    def _quantifier(self, depth: int) -> str:
        over = self.write("list", depth) if self._random.random() < 0.7 else "args.m"
        test = self._pick("x == 'a'", "x != ''", "x", "x > 1", "x.b", "size(x) > 1", "x in v.hosts", "!x")
        return f"({over}).{self._pick('all', 'exists', 'exists_one')}(x, {test})"

    def _sieve(self, depth: int) -> str:
        over = self.write("list", depth)
        return f"({over}).{self._pick('filter(x, x == 1)', 'filter(x, x != 2)', 'map(x, x)', 'map(x, [x])')}"

    def _has(self, _: int) -> str:
        return f"has(args.{self._pick(*FIELDS)}{self._pick('', '', '.s')})"

    def _field(self, _: int) -> str:
        chosen = self._pick("field", "field", "index", "below", "user")
        if chosen == "user":
            return "principal.user"
        if chosen == "index":
            return f'args["{self._pick(*FIELDS)}"]'
        below = self._pick(".s", ".n", "[0]", '["s"]') if chosen == "below" else ""
        return f"args.{self._pick(*FIELDS)}{below}"

    def _choice(self, kind: str) -> Callable[[int], str]:
        def write(depth: int) -> str:
            return f"({self.write('bool', depth)} ? {self.write(kind, depth)} : {self.write(kind, depth)})"

        return write

    def _sum(self, kind: str, operators: str) -> Callable[[int], str]:
        def write(depth: int) -> str:
            return f"({self.write(kind, depth)} {self._pick(*operators)} {self.write(kind, depth)})"

        return write

    def _int(self, _: int) -> str:
        number = self._random.choice(INTS)
        return self._pick(
            "session.calls", "args.n", "now", f"({number})" if number < 0 else f"{number}", f"{number % 9}"
        )

    def _double(self, _: int) -> str:
        number = self._random.choice(DOUBLES)
        return self._pick("session.cost", "args.d", f"({number})" if str(number).startswith("-") else f"{number}")

    def _string(self, _: int) -> str:
        return self._pick("tool.name", "args.s", "args.u", f'"{self._pick(*STRINGS)}"', f"'{self._pick(*STRINGS)}'")

    def _list(self, _: int) -> str:
        return self._pick(
            "session.labels", "v.hosts", "args.l", '["a", "É"]', "[1, 2, 1]", "[]", "[1.0, 2.5]", "[true]"
        )

    def _size(self, depth: int) -> str:
        kind = self._pick("string", "list", "dyn")
        return (
            f"size({self.write(kind, depth)})" if self._random.random() < 0.6 else f"({self.write(kind, depth)}).size()"
        )

    def _time(self, _: int) -> str:
        return "timestamp(now)" if self._random.random() < 0.2 else f'timestamp("{self._pick(*MOMENTS)}")'

    def _later(self, depth: int) -> str:
        return f'({self.write("time", depth)} {self._pick("+", "-")} duration("{self._pick(*SPANS)}"))'

    def _time_test(self, depth: int) -> str:
        if self._random.random() < 0.3:
            part = self._pick("getHours()", "getFullYear()", "getDayOfWeek()", 'getHours("Europe/London")')
            return f"{self.write('time', depth)}.{part} {self._pick('<', '>=', '==')} {self._random.randint(0, 12)}"
        if self._random.random() < 0.3:
            return f'duration("{self._pick(*SPANS)}") {self._pick("<", "==", ">=")} duration("{self._pick(*SPANS)}")'
        return f"{self.write('time', depth)} {self._pick('<', '==', '>=')} {self.write('time', depth)}"


def variables(random: Random) -> dict[str, Json]:
    """Values for what the expressions name: of the right type for the most part, some absent."""
    proper: dict[str, Json] = {
        "s": random.choice(STRINGS),
        "u": random.choice(STRINGS),
        "n": random.choice(INTS),
        "d": random.choice(DOUBLES),
        "b": random.random() < 0.5,
        "l": random.choice(
            [
                [],
                ["a"],
                ["a", "É", "b"],
                [1, 2],
                [True, False],
                [{"b": True}, {}],
                [{}, {"b": True}],
                [{}, {"b": False}],
                [[1], []],
                [None],
                [1.0],
            ]
        ),
        "m": random.choice([{}, {"s": "a"}, {"s": True, "n": 1}, {"É": 1}, {"s": {"s": "a"}}]),
        "none": None,
    }
    args = {name: random_json(random) if random.random() < 0.1 else value for name, value in proper.items()}
    return {
        "args": {name: value for name, value in args.items() if random.random() < 0.9},
        "principal.user": random.choice([None, "ann", "É"]),
        "session.cost": random.choice(DOUBLES),
        "session.calls": random.choice(INTS),
        "session.labels": random.choice([[], ["untrusted"], ["a", "pii"]]),
        "tool.name": random.choice(STRINGS),
        "now": random.choice([0, 1, 1_000, 1_770_000_000]),
        "p0.v.hosts": random.choice([[], ["a", "acme.com"], ["É"]]),
    }


def random_json(random: Random, depth: int = 2) -> Json:
    """Any JSON value, not deep."""
    kind = random.randrange(7 if depth else 5)
    if kind == 5:
        return [random_json(random, depth - 1) for _ in range(random.randrange(4))]
    if kind == 6:
        return {random.choice(STRINGS[:6]): random_json(random, depth - 1) for _ in range(random.randrange(4))}
    simple: list[Json] = [
        None,
        random.random() < 0.5,
        random.choice(INTS),
        random.choice(DOUBLES),
        random.choice(STRINGS),
    ]
    return simple[kind]
