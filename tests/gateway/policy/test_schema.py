"""The published schemas, which editors follow: they take what the loader takes, and refuse what it refuses by shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gateway.policy.language import read_cases, read_part, schema_of
from gateway.specs.yaml import SpecErrors

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "policies").rglob("*.yaml"))
HEAD = "apiVersion: toolgate/v1\nkind: Policy\nid: a\n"
RULE = "rules: [{id: r, effect: permit%s}]\n"
PLAIN = RULE % ""

GOOD = {
    "a boundary of a tenant": "tier: tenant\ntenant: acme\nboundary: true\n" + PLAIN,
    "a part in shadow": "mode: shadow\n" + PLAIN,
    "a rule in shadow": RULE % ", mode: shadow, when: [session.calls < 3]",
    "every aggregate": "state:\n"
    "  a: {count: {tools: [x]}, within: 1h}\n"
    "  b: {count_distinct: arg.url.host, of: {effects: [egress]}, within: 24h, over: agent}\n"
    "  c: {sum: args.amount, of: {tools: [x]}, within: 30m, over: user}\n"
    "  d: {formerly: {tool_labels: [y]}, same: args.pr, within: 90s}\n"
    "  e: {since: {tools: [x]}, within: 1h, over: tenant}\n" + PLAIN,
    "every obligation": RULE
    % ", with: {timeout: 5s, limits: {output: 64KiB}, limit: {key: user, calls: 60/1m}, label: [x], record: metadata, "
    "sandbox: {backends: [docker], require: [own-kernel]}, network: {allow: ['GET https://a.b/**']}, "
    "screen: {injection: block, redact: [email]}, cache: 'off', "
    "approval: {when: 'true', by: [requester, 'group:ops'], ttl: 15m}}",
    "a case with history": PLAIN + "tests:\n- {name: n, as: {agent: a, user: u, groups: [g]}, session: {labels: [x], "
    "history: [{call: {t: {}}, ago: 5m, ended: running}]}, call: {t: {}}, expect: {deny: no_permit}}\n",
}
BAD = {
    "a match of nothing": RULE % ", match: {agents: }",
    "conditions that are none": RULE % ", when: ",
    "an unknown mode": "mode: dry\n" + PLAIN,
    "a rule's unknown mode": RULE % ", mode: warn",
    "an aggregate without a window": "state: {a: {count: {tools: [x]}}}\n" + PLAIN,
    "an aggregate of an unknown kind": "state: {a: {average: args.x, within: 1h}}\n" + PLAIN,
    "an aggregate over an unknown owner": "state: {a: {count: {tools: [x]}, within: 1h, over: planet}}\n" + PLAIN,
    "a window without a unit": "state: {a: {count: {tools: [x]}, within: 60}}\n" + PLAIN,
    "a path of no argument": "state: {a: {sum: amount, of: {tools: [x]}, within: 1h}}\n" + PLAIN,
    "an aggregate of two kinds": "state: {a: {count: {tools: [x]}, since: {tools: [x]}, within: 1h}}\n" + PLAIN,
    "a sum of no calls": "state: {a: {sum: args.x, within: 1h}}\n" + PLAIN,
    "a value in capitals": "values: {Hosts: [a.example]}\n" + PLAIN,
    "a forbid with obligations": "rules: [{id: r, effect: forbid, with: {timeout: 5s}}]\n",
    "a tenant's part without its name": "tier: tenant\n" + PLAIN,
    "a name in capitals": "state: {Mails: {count: {tools: [x]}, within: 1h}}\n" + PLAIN,
    "a network of nothing": RULE % ", with: {network: {allow: []}}",
    "an unknown way to treat injection": RULE % ", with: {screen: {injection: warn}}",
    "an unknown kind of value to redact": RULE % ", with: {screen: {redact: [phone]}}",
    "a cache that is neither": RULE % ", with: {cache: maybe}",
    "an approval by nobody": RULE % ", with: {approval: {by: []}}",
    "an approval by an unknown kind": RULE % ", with: {approval: {by: ['team:ops']}}",
    "an unknown obligation": RULE % ", with: {quota: 5}",
    "a past call that ended otherwise": PLAIN
    + "tests: [{name: n, session: {history: [{call: {t: {}}, ended: lost}]}, call: {t: {}}, expect: {deny: r}}]\n",
    "a case that expects two things": PLAIN + "tests: [{name: n, call: {t: {}}, expect: {deny: r, permit: r}}]\n",
    "a case of two calls": PLAIN + "tests: [{name: n, call: {t: {}, u: {}}, expect: {deny: r}}]\n",
}


def fits(text: str, kind: Any = "policy") -> bool:
    """What an editor that follows the published schema says of a file."""
    schema: Any = json.loads(json.dumps(schema_of(kind)))
    value = json.loads(json.dumps(yaml.safe_load(text)))
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


@pytest.mark.parametrize("kind", ["policy", "cases"])
def test_a_published_schema_is_one(kind: Any) -> None:
    """JSON Schema 2020-12, without a key that the draft does not know a form for."""
    schema: Any = schema_of(kind)
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_what_the_loader_takes_an_editor_takes(text: str) -> None:
    """Each new word of the language, in every form."""
    assert read_part((HEAD + text).encode(), "a.yaml").shape.id == "a"
    assert fits(HEAD + text)


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_what_is_wrong_by_shape_both_refuse(text: str) -> None:
    """An editor marks it while it is written."""
    with pytest.raises(SpecErrors):
        read_part((HEAD + text).encode(), "a.yaml")
    assert not fits(HEAD + text)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.relative_to(ROOT / "policies")))
def test_every_shipped_policy_fits(file: Path) -> None:
    """The starters that people copy are not marked by their editors."""
    if "\nkind: Policy\n" in file.read_text():
        assert fits(file.read_text())


def test_a_file_of_cases_fits_its_schema() -> None:
    """One that names files and one that has them in it; a case without what it expects does not."""
    for file in (ROOT / "tests" / "cases").glob("*.yaml"):
        read_cases(file.read_bytes(), str(file))
        assert fits(file.read_text(), "cases")
    assert not fits("apiVersion: toolgate/v1\nkind: Cases\ncases: [{name: n, call: {t: {}}}]\n", "cases")
