"""The policy in force: what takes its place and what does not, over real files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from gateway.doors.admin import admin_app
from gateway.policy.bundle import PolicyBundle
from prove.reload import GOOD, storm
from tests.gateway.watched import BROKEN, PEACE, SETTLE, TESTS, Watched, play
from tests.kit import PERMIT, Lab, ask


def _has_lines(stage: Watched, number: int) -> bool:
    return len(stage.ledger.lines) == number


def test_the_start_is_on_record(tmp_path: Path) -> None:
    """What every later record was judged by; the operator hears nothing new."""

    async def scene(stage: Watched) -> None:
        (loaded,) = stage.records("policy.loaded")
        tools = {tool.name: tool.digest for tool in stage.lab.gate.catalogue.all()}
        digest = stage.live.current().digest
        assert loaded == {
            "bundle_digest": digest,
            "previous": None,
            "candidate": False,
            "findings": 0,
            "tools": tools,
            "screening": "1",
        }
        assert (stage.said, dict(stage.live.state())) == ([], {"policy": "ok"})

    play(tmp_path, scene)


def test_a_changed_policy_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    """The next call is decided by it, and the record names both."""

    async def scene(stage: Watched) -> None:
        old = stage.live.current().digest
        assert (await stage.may("peace"), await stage.may("war")) == (True, False)
        stage.write(PEACE)
        await stage.live.reload()
        new = stage.live.current().digest
        assert (await stage.may("peace"), await stage.may("war")) == (False, True)
        last = stage.records("policy.loaded")[-1]
        assert (last["bundle_digest"], last["previous"]) == (new, old)
        assert stage.said == [f"toolgate: policy {new} is in force"]

    play(tmp_path, scene)


def test_the_watch_does_it_by_itself_and_at_once_when_asked(tmp_path: Path) -> None:
    """With and without being asked; and it goes on after a policy that does not load."""

    async def scene(stage: Watched) -> None:
        watching = asyncio.create_task(stage.live.watch())
        for number, (text, state) in enumerate(((PEACE, "ok"), (BROKEN, "rejected"), (PERMIT, "ok")), 2):
            stage.write(text)
            if state == "rejected":
                stage.live.ask()
            await stage.until(partial(_has_lines, stage, number))
            assert stage.policy == state
        watching.cancel()

    stage = play(tmp_path, scene)
    assert [line.type for line in stage.ledger.lines] == [
        "policy.loaded",
        "policy.loaded",
        "policy.rejected",
        "policy.loaded",
    ]


def test_what_says_the_same_changes_nothing(tmp_path: Path) -> None:
    """A touched file, a file written anew with the same bytes, and files that are none of the policy's."""

    async def scene(stage: Watched) -> None:
        bundle = stage.live.current()
        stage.write(PERMIT)
        (stage.folder / "notes.md").write_text("nothing")
        (stage.folder / ".lab.yaml.swp").write_text(BROKEN)
        (stage.folder / ".git").mkdir()
        (stage.folder / ".git" / "other.yaml").write_text(BROKEN)
        await stage.live.reload()
        assert stage.live.current() is bundle
        assert (len(stage.ledger.lines), stage.said) == (1, [])

    play(tmp_path, scene)


def test_a_policy_that_does_not_load_changes_nothing_but_what_is_said(tmp_path: Path) -> None:
    """The last good one decides; record, log and readiness say why; the old file put back is no news for the ledger."""

    async def scene(stage: Watched) -> None:
        bundle = stage.live.current()
        stage.write(BROKEN)
        await stage.live.reload()
        assert stage.live.current() is bundle
        assert (await stage.may("hello"), await stage.may("war")) == (True, False)
        (rejected,) = stage.records("policy.rejected")
        (finding,) = rejected.pop("findings")
        assert rejected == {"bundle_digest": bundle.digest, "candidate": False, "count": 1}
        assert finding.startswith(f"{stage.folder}/lab.yaml:7:")
        assert stage.said == [f"toolgate: policy rejected; {bundle.digest} stays in its place", f"toolgate: {finding}"]
        assert stage.policy == "rejected"
        stage.write(PERMIT)
        lines = len(stage.ledger.lines)
        await stage.live.reload()
        assert (stage.policy, stage.live.current() is bundle, len(stage.ledger.lines)) == ("ok", True, lines)
        assert stage.said[2:] == [f"toolgate: policy {bundle.digest} stands in its folder again"]

    play(tmp_path, scene)


def test_a_policy_that_fails_its_own_tests_is_refused(tmp_path: Path) -> None:
    """With the place of the test, what it wanted and what came out."""

    async def scene(stage: Watched) -> None:
        stage.write(PEACE + TESTS)
        await stage.live.reload()
        (rejected,) = stage.records("policy.rejected")
        place = f"{stage.folder}/lab.yaml:{len(PEACE.splitlines()) + 2}:1"
        assert rejected["findings"] == [f"{place}: the test 'no war' fails: wanted deny no-war, got permit echo-ok"]
        assert (await stage.may("peace"), await stage.may("war")) == (True, False)

    play(tmp_path, scene)


def test_a_folder_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    """A file that is a link to nowhere, no file at all, no folder at all."""

    async def scene(stage: Watched) -> None:
        bundle = stage.live.current()
        (stage.folder / "more.yaml").symlink_to(stage.folder / "nowhere.yaml")
        await stage.live.reload()
        (stage.folder / "more.yaml").unlink()
        (stage.folder / "lab.yaml").unlink()
        await stage.live.reload()
        stage.folder.rmdir()
        await stage.live.reload()
        said = [str(record["findings"]) for record in stage.records("policy.rejected")]
        assert [
            "more.yaml:1:1: cannot be read" in said[0],
            "no policy file" in said[1],
            "no such folder" in said[2],
        ] == [True] * 3
        assert (stage.live.current() is bundle, stage.policy) == (True, "rejected")

    play(tmp_path, scene)


def test_a_folder_that_keeps_changing_is_not_taken(tmp_path: Path) -> None:
    """A request to load it ends, and says so."""

    async def scene(stage: Watched) -> None:
        bundle = stage.live.current()

        async def keep_writing() -> None:
            while True:
                stage.write(PEACE)
                await asyncio.sleep(SETTLE / 8)

        writing = asyncio.create_task(keep_writing())
        async with asyncio.timeout(60):
            await stage.live.reload()
        writing.cancel()
        (rejected,) = stage.records("policy.rejected")
        assert "keeps changing" in str(rejected["findings"])
        assert stage.live.current() is bundle

    play(tmp_path, scene)


def test_requests_during_a_load_are_one_load_after_it(tmp_path: Path) -> None:
    """What was written after the first load had read the folder is in force when they return."""
    held, prepared = asyncio.Event(), list[str]()

    async def prepare(bundle: PolicyBundle, in_force: Sequence[PolicyBundle]) -> None:
        prepared.append(bundle.digest)
        if in_force:
            await held.wait()

    async def scene(stage: Watched) -> None:
        stage.write(PEACE)
        first = asyncio.create_task(stage.live.reload())
        await stage.until(lambda: len(prepared) == 2)
        stage.write(PEACE + "\n# and more\n")
        later = [asyncio.create_task(stage.live.reload()) for _ in range(5)]
        await asyncio.sleep(0)
        held.set()
        await asyncio.gather(first, *later)
        assert prepared[-1] == stage.live.current().digest
        assert (len(prepared), len(set(prepared))) == (3, 3)

    play(tmp_path, scene, prepare=prepare)


def test_a_bundle_that_cannot_be_prepared_or_kept_is_refused(tmp_path: Path) -> None:
    """Whatever went wrong, the last good one stays."""

    async def prepare(bundle: PolicyBundle, in_force: Sequence[PolicyBundle]) -> None:
        if in_force:
            raise ValueError("the past cannot be read")

    async def scene(stage: Watched) -> None:
        bundle = stage.live.current()
        stage.write(PEACE)
        await stage.live.reload()
        assert (stage.live.current() is bundle, stage.policy) == (True, "rejected")
        for kept in stage.home.bundles.iterdir():
            kept.unlink()
        stage.home.bundles.rmdir()
        stage.home.bundles.write_text("in the way")
        stage.write(PEACE + "\n# again\n")
        await stage.live.reload()
        assert (stage.live.current() is bundle, stage.policy) == (True, "rejected")
        assert len(stage.records("policy.rejected")) == 2

    play(tmp_path, scene, prepare=prepare)


@pytest.mark.parametrize("what", ["full", "filling"])
def test_nothing_is_in_force_that_cannot_be_put_on_record(tmp_path: Path, what: str) -> None:
    """While the ledger cannot be written the policy stays as it is; when it can be again, the new one is taken."""

    async def scene(stage: Watched) -> None:
        bundle, watching = stage.live.current(), asyncio.create_task(stage.live.watch())
        setattr(stage.ledger, what, True)
        stage.write(PEACE)
        await stage.live.reload()
        assert stage.live.current() is bundle
        setattr(stage.ledger, what, False)
        await stage.until(lambda: stage.live.current() is not bundle)
        watching.cancel()
        assert stage.records("policy.loaded")[-1]["bundle_digest"] == stage.live.current().digest

    play(tmp_path, scene)


def test_a_candidate_is_heard_and_never_followed(tmp_path: Path) -> None:
    """It is missing, empty, there, broken and there again while the gateway serves; live decisions stay the same."""

    async def scene(stage: Watched) -> None:
        beside, plain = stage.live.current, stage.live.current()
        assert dict(stage.live.state()) == {"policy": "ok", "candidate": "rejected"}
        stage.beside.mkdir()
        await stage.live.reload()
        assert dict(stage.live.state()) == {"policy": "ok", "candidate": "rejected"}
        (stage.beside / "lab.yaml").write_text(PEACE)
        await stage.live.reload()
        assert dict(stage.live.state()) == {"policy": "ok", "candidate": "ok"}
        assert (await stage.may("peace"), await stage.may("war")) == (True, False)
        decided = stage.records("call.intent")[-1]["decision"]
        assert isinstance(decided, dict)
        shadow = decided["shadow"]
        assert (shadow["effect"], decided["bundle_digest"] == plain.digest) == ("forbid", True)
        assert shadow["bundle_digest"] == stage.records("policy.loaded")[-1]["bundle_digest"] != plain.digest
        assert stage.said[-1] == f"toolgate: candidate {shadow['bundle_digest']} is heard, not followed"
        (stage.beside / "lab.yaml").write_text(BROKEN)
        await stage.live.reload()
        assert beside() is plain
        assert [record["candidate"] for record in stage.records("policy.rejected")] == [True] * 3
        (stage.beside / "lab.yaml").write_text(PEACE)
        await stage.live.reload()
        assert (beside() is plain, beside().digest) == (False, plain.digest)

    play(tmp_path, scene, candidate=True)


def test_what_a_lost_candidate_declared_does_not_count_by_itself(tmp_path: Path) -> None:
    """A bundle is prepared beside those that are in force, and a candidate that was taken away is not one of them."""
    prepared: list[tuple[str, list[str]]] = []

    async def prepare(bundle: PolicyBundle, in_force: Sequence[PolicyBundle]) -> None:
        prepared.append((bundle.digest, [each.digest for each in in_force]))

    async def scene(stage: Watched) -> None:
        old = stage.live.current().digest
        stage.beside.mkdir()
        (stage.beside / "lab.yaml").write_text(PEACE)
        await stage.live.reload()
        (stage.beside / "lab.yaml").unlink()
        await stage.live.reload()
        stage.write(PEACE)
        await stage.live.reload()
        new = stage.live.current().digest
        assert prepared == [(old, []), (new, [old]), (new, [old])]

    play(tmp_path, scene, candidate=True, prepare=prepare)


def test_what_is_admitted_while_a_bundle_is_prepared_counts_for_it(tmp_path: Path) -> None:
    """Decided by the old one alone, without a shadow; and not any more where the new one is not taken after all."""
    state = "state:\n  told: {count: {tools: [echo]}, within: 1h}\n"
    counting = PERMIT + "- {id: much, effect: forbid, match: {tools: [echo]}, when: [state.told > 9]}\n" + state
    stages: list[Watched] = []

    async def prepare(bundle: PolicyBundle, in_force: Sequence[PolicyBundle]) -> None:
        if in_force:
            assert await stages[0].may("hello")
            raise ValueError("the past cannot be read")

    async def scene(stage: Watched) -> None:
        stages.append(stage)
        stage.write(counting)
        await stage.live.reload()
        assert await stage.may("hello")
        during, after = [line for line in stage.ledger.lines if line.type == "call.intent"]
        assert isinstance(during.content, dict)
        assert isinstance(after.content, dict)
        assert len(during.content["reserves"]) == 1
        assert "reserves" not in after.content
        assert during.fields["decision"] == after.fields["decision"]
        assert stage.policy == "rejected"

    play(tmp_path, scene, prepare=prepare)


def test_what_is_said_of_one_load_is_bounded(tmp_path: Path) -> None:
    """A file can have as many findings as it has rules."""
    many = "".join(f"- {{id: r{n}, effect: no, match: {{tools: [echo]}}}}\n" for n in range(50))

    async def scene(stage: Watched) -> None:
        stage.write(PERMIT + many)
        await stage.live.reload()
        (rejected,) = stage.records("policy.rejected")
        assert (len(list(rejected["findings"])), rejected["count"]) == (20, 50)
        assert (len(stage.said), stage.said[-1]) == (22, "toolgate: and 30 more findings")

    play(tmp_path, scene)


def test_what_is_said_of_a_load_is_safe_for_a_terminal(tmp_path: Path) -> None:
    """A file's name may hold anything; whoever reads the log sees it spelled out."""

    async def scene(stage: Watched) -> None:
        stage.write("x: [", "a\x1b[31m\nb.yaml")
        await stage.live.reload()
        assert stage.said[-1].startswith(f"toolgate: {stage.folder}/a\\u001b[31m\\u000ab.yaml:2:1: ")
        assert all(line.isprintable() for line in stage.said)

    play(tmp_path, scene)


def test_what_lint_says_of_a_new_policy_is_said(tmp_path: Path) -> None:
    """As at the start: it keeps nothing from being in force."""

    async def scene(stage: Watched) -> None:
        stage.write(PERMIT + "- {id: far, effect: permit, match: {tools: [nothing_*]}}\n")
        await stage.live.reload()
        assert stage.records("policy.loaded")[-1]["findings"] == 1
        assert "matches no loaded tool" in stage.said[-1]

    play(tmp_path, scene)


def test_the_listing_and_its_etag_change_with_the_policy(tmp_path: Path) -> None:
    """A client that asks whether its list is still the list is told that it is not."""

    async def scene(stage: Watched) -> None:
        first = await stage.lab.http("GET", "/v1/tools")
        same = await stage.lab.http("GET", "/v1/tools", b"", "dev", **{"If-None-Match": first.headers["etag"]})
        stage.write(PERMIT.replace("agents: [dev]", "agents: [other]"))
        await stage.live.reload()
        then = await stage.lab.http("GET", "/v1/tools", b"", "dev", **{"If-None-Match": first.headers["etag"]})
        assert (first.status, same.status, then.status) == (200, 304, 200)
        assert (len(first.json["tools"]), len(then.json["tools"])) == (1, 0)

    play(tmp_path, scene)


def test_a_rejected_policy_is_no_reason_not_to_serve(tmp_path: Path) -> None:
    """Readiness says it, and only what cannot be put on record makes it 503."""

    async def ready(**parts: str) -> int:
        app = admin_app(Lab.of().gate, lambda: parts)
        return (await ask(app, "GET", "/readyz", {"Host": Lab.HOST})).status

    assert asyncio.run(ready(audit="ok", policy="rejected")) == 200
    assert asyncio.run(ready(audit="audit_unavailable", policy="ok")) == 503


def test_no_call_is_decided_by_half_of_a_policy(tmp_path: Path) -> None:
    """Written in pieces, wrong, and whole by turns, while calls are decided: each by two files that stood whole."""
    seen, writer, live = asyncio.run(storm(tmp_path, 10_000, 5, seed=1))
    assert (seen.foreign, seen.wrong) == ([], [])
    assert min(seen.effects["permit"], seen.effects["forbid"], len(seen.bundles)) > 1
    assert min(writer.did["cut"], writer.did["wrong"], writer.did["renamed"]) > 0
    assert (GOOD[live.current().digest], live.state()["policy"]) == ((1, 2), "ok")
