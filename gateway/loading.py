"""From folders to what is served: specs and policies read, checked and compiled together. It never dials or runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.folders import is_yaml, read
from gateway.policy.bundle import PolicyBundle, load_bundle
from gateway.policy.cases import Case, case_of, run_cases
from gateway.policy.findings import nearest
from gateway.policy.language import schema_of as policy_schema
from gateway.runners.http import BadTemplate, Plan
from gateway.specs.language import schema_of as spec_schema
from gateway.specs.load import Specs, load_specs
from gateway.specs.sandboxed import Offer
from gateway.specs.yaml import SpecError, SpecErrors
from gateway.tool import HttpBackend, Json, Server, Tool
from sandboxes.model import GUARANTEES
from sandboxes.offers import BACKENDS

# What backends give at best: enough to read files by, where nobody has looked at the host.
OFFERS: Mapping[str, Offer] = {name: Offer(guarantees, bounds) for name, (guarantees, bounds) in BACKENDS.items()}
SCHEMAS: Mapping[str, Callable[[], dict[str, Json]]] = {
    "tool": lambda: spec_schema("tool"),
    "server": lambda: spec_schema("server"),
    "policy": lambda: policy_schema("policy"),
    "cases": lambda: policy_schema("cases"),
}


class ToolCatalogue:
    """The loaded tools by name."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.name: tool for tool in sorted(tools, key=lambda tool: tool.name)}
        self._all = tuple(self._tools.values())

    def find(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def all(self) -> Sequence[Tool]:
        return self._all


@dataclass(frozen=True, slots=True)
class Loaded:
    """One set of specs and policies that fit together. It is its own `Bundles`: one bundle, in force.

    `policies` are the files of the bundle, `given` the guarantees of each kind of sandbox.
    """

    catalogue: ToolCatalogue
    servers: Mapping[str, Server]
    bundle: PolicyBundle
    cases: Sequence[Case]
    policies: Mapping[str, bytes]
    given: Mapping[str, frozenset[str]]

    @property
    def findings(self) -> Sequence[SpecError]:
        """What lint says: nothing that keeps the gateway from serving."""
        return self.bundle.findings

    def current(self) -> PolicyBundle:
        return self.bundle

    def proven(self, policies: Mapping[str, bytes]) -> PolicyBundle:
        """A bundle of other policy files about the same tools, with its own tests passed. Raises `SpecErrors`."""
        bundle = compile_policies(policies, self.catalogue.all(), self.given)
        require_tests(bundle)
        return bundle


def load_folders(specs: Path, policies: Path, offers: Mapping[str, Offer] = OFFERS) -> Loaded:
    """Everything below two folders. Raises `SpecErrors` with every finding."""
    return load_files(read(specs), read(policies, only_yaml=True), offers)


def load_files(
    specs: Mapping[str, bytes], policies: Mapping[str, bytes], offers: Mapping[str, Offer] = OFFERS
) -> Loaded:
    """Spec and policy files, name → bytes. Raises `SpecErrors` with every finding."""
    loaded: Specs = load_specs(specs, sandboxes=offers)
    unfit = [finding for tool in loaded.tools if (finding := _unfit(tool)) is not None]
    if unfit:
        raise SpecErrors(unfit)
    given = {name: offer.guarantees for name, offer in offers.items()}
    policies = {name: raw for name, raw in policies.items() if is_yaml(name)}
    bundle = compile_policies(policies, loaded.tools, given)
    cases = [case_of(each.shape, each.tool, each.source) for each in loaded.cases]
    return Loaded(ToolCatalogue(loaded.tools), loaded.servers, bundle, cases, policies, given)


def compile_policies(
    policies: Mapping[str, bytes], tools: Sequence[Tool], given: Mapping[str, frozenset[str]]
) -> PolicyBundle:
    """A bundle of policy files, name → bytes; what is no YAML file is left out. Raises `SpecErrors`."""
    bundle = load_bundle({name: raw for name, raw in policies.items() if is_yaml(name)}, tools, given)
    unknown = list(_unknown(bundle))
    if unknown:
        raise SpecErrors(unknown)
    return bundle


def require_tests(bundle: PolicyBundle) -> None:
    """Raises `SpecErrors` with each of the bundle's own tests that does not come out as it wants."""
    failed = []
    for result in run_cases(bundle):
        if not result.ok:
            file, _, line = result.source.rpartition(":")
            sentence = f"the test {result.name!r} fails: wanted {result.wanted}, got {result.got}"
            failed.append(SpecError(file, int(line), 1, sentence))
    if failed:
        raise SpecErrors(failed)


def _unknown(bundle: PolicyBundle) -> Iterator[SpecError]:
    """Guarantees that rules require and no sandbox has a word for."""
    for rule in bundle.rules.values():
        for name in sorted(rule.obligations.require - GUARANTEES.keys()):
            file, _, line = rule.source.rpartition(":")
            text = f"the rule {rule.id} requires {name!r}, which is no guarantee: {nearest(name, GUARANTEES)}"
            yield SpecError(file, int(line), 1, text)


def _unfit(tool: Tool) -> SpecError | None:
    """What the runners themselves say of a spec whose requests they could never send."""
    try:
        if isinstance(tool.backend, HttpBackend):
            Plan.of(tool.backend)
    except BadTemplate as bad:
        file, _, line = tool.source.rpartition(":")
        return SpecError(file, int(line), 1, f"no request of this tool could be sent: {bad}")
    return None
