"""Clauses over facts: what arguments meant, instead of how they were spelled.

Each takes what the facts of one argument were over all calls of a rule. It never reads an argument itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.suggest.bounds import Beyond, Bound
from gateway.suggest.names import Constants
from gateway.suggest.values import FEW, MANY, at_most, directories, folder, is_secret

ELSEWHERE = "elsewhere.invalid"
_DEEPEST = 32  # slashes in a path that are counted
_MANY_HOSTS = 20  # with a path for each; more are one list, of hosts alone
Facts = Sequence[Any]


def bound_fact(kind: str, fact: str, name: str, seen: Facts, constants: Constants) -> Bound | None:
    """The bound of one argument with facts of a kind; `fact` is how an expression names it. None: it says nothing."""
    return _KINDS[kind](fact, name, seen, constants)


def _url(fact: str, name: str, seen: Facts, constants: Constants) -> Bound | None:
    schemes, ports = sorted({each["scheme"] for each in seen}), sorted({each["port"] for each in seen})
    paths: dict[str, list[str]] = {}
    for each in seen:
        paths.setdefault(each["host"], []).append(each["path"])
    if len(paths) > MANY:
        return None
    prefixes = {host: _plain(folder(found)) for host, found in paths.items()}
    if len([prefix for prefix in prefixes.values() if prefix != "/"]) > _MANY_HOSTS:
        prefixes = dict.fromkeys(prefixes, "/")
    clauses = [f"{fact}.scheme in {constants.name(f'{name}_schemes', schemes)}", f"{fact}.port in {ports}"]
    deepest = {host: max(path.count("/") for path in found) for host, found in paths.items()}
    clauses += _places(fact, name, prefixes, deepest, constants)
    origin = f"{seen[0]['scheme']}://{seen[0]['host']}:{seen[0]['port']}"
    beyond = [Beyond("another host", (), f"{seen[0]['scheme']}://{ELSEWHERE}/")]
    if set(prefixes.values()) != {"/"}:
        beyond.append(Beyond("a path outside", (), f"{origin}/elsewhere/"))
        beyond.append(Beyond("a deeper path", (), f"{origin}{prefixes[seen[0]['host']]}{'deeper/' * _DEEPEST}"))
    return Bound(tuple(clauses), tuple(beyond))


def _plain(prefix: str) -> str:
    """Paths can be credentials, as those of web hooks are."""
    return "/" if is_secret(f"https://hooks.slack.com{prefix}") or is_secret(prefix) else prefix


def _places(
    fact: str, name: str, prefixes: Mapping[str, str], deepest: Mapping[str, int], constants: Constants
) -> list[str]:
    """Clauses of the hosts, and per host of the folder that its paths stand in, no deeper than they do.

    Hosts with the same folder are together.
    """
    hosts: dict[str, list[str]] = {}
    for host, prefix in sorted(prefixes.items()):
        hosts.setdefault(prefix, []).append(host)
    pairs = []
    for prefix, names in sorted(hosts.items()):
        pair = [f"{fact}.host in {constants.name(f'{name}_hosts', names)}"]
        if prefix != "/":
            pair.append(f"{fact}.path.startsWith({constants.name(f'{name}_folder', prefix)})")
            most = max(deepest[host] for host in names)
            if most <= _DEEPEST:
                pair.append(f'{fact}.path.matches("^(/[^/]*){{1,{most}}}$")')
        pairs.append(pair)
    return pairs[0] if len(pairs) == 1 else [" || ".join(f"({' && '.join(pair)})" for pair in pairs)]


def _path(fact: str, name: str, seen: Facts, constants: Constants) -> Bound | None:
    found = directories(each["canonical"] for each in seen)
    if "/" in found or any(map(is_secret, found)):
        return None
    folders, text = constants.name(f"{name}_folders", found), f"{fact}.canonical"
    clause = f'{folders}.exists(folder, {text} == folder || {text}.startsWith(folder + "/"))'
    return Bound((clause,), (Beyond("a path outside", (), "/elsewhere/file"),))


def _email(fact: str, name: str, seen: Facts, constants: Constants) -> Bound | None:
    domains = sorted({each["domain"] for each in seen})
    if len(domains) > MANY:
        return None
    clause = f"{fact}.domain in {constants.name(f'{name}_domains', domains)}"
    return Bound((clause,), (Beyond("another domain", (), f"someone@{ELSEWHERE}"),))


def _email_list(fact: str, name: str, seen: Facts, constants: Constants) -> Bound | None:
    domains = sorted({each["domain"] for listed in seen for each in listed})
    most = at_most(max(map(len, seen)))
    clauses = [f"size({fact}) <= {most}"]
    if len(domains) <= MANY:
        some = f"size({fact}) > 0" if min(map(len, seen)) else f"size({fact}) >= 0"
        known = constants.name(f"{name}_domains", domains)
        clauses.append(f"{some} && {fact}.all(address, address.domain in {known})")
    beyond = Beyond("another domain", (), [f"someone@{ELSEWHERE}"])
    return Bound(tuple(clauses), (beyond,))


def _repo(fact: str, name: str, seen: Facts, constants: Constants) -> Bound | None:
    owners, names = sorted({each["owner"] for each in seen}), sorted({each["name"] for each in seen})
    if len(owners) > MANY:
        return None
    clauses = [f"{fact}.owner in {constants.name(f'{name}_owners', owners)}"]
    if len(names) <= FEW:
        clauses.append(f"{fact}.name in {constants.name(f'{name}_names', names)}")
    return Bound(tuple(clauses), (Beyond("another owner", (), f"elsewhere-owner/{names[0]}"),))


def _host(fact: str, name: str, seen: Facts, constants: Constants) -> Bound | None:
    hosts = sorted(set(seen))
    if len(hosts) > MANY:
        return None
    clause = f"{fact} in {constants.name(f'{name}_hosts', hosts)}"
    return Bound((clause,), (Beyond("another host", (), ELSEWHERE),))


def _words(fact: str, name: str, seen: Facts, constants: Constants) -> Bound | None:
    first = sorted({words[0] for words in seen if words})
    if len(first) > FEW or not all(seen) or any(map(is_secret, first)):
        return None
    most = at_most(max(map(len, seen)))
    clause = f"size({fact}) > 0 && {fact}[0] in {constants.name(f'{name}_commands', first)}"
    return Bound((f"size({fact}) <= {most}", clause), (Beyond("another command", (), "elsewhere"),))


_KINDS: Mapping[str, Callable[[str, str, Facts, Constants], Bound | None]] = {
    "url": _url,
    "path": _path,
    "email": _email,
    "email_list": _email_list,
    "repo_path": _repo,
    "host": _host,
    "shell_words": _words,
}
