"""The line of stages as a whole: its order, what it records, and what it does when a part of it says no."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from gateway.model import Failure, Position, RawOutput, Refusal, Session
from gateway.ports import Line
from gateway.problems import problem, refuse
from gateway.stores.memory import MemoryLedger
from gateway.stores.sessions import MemorySessions
from gateway.tool import HttpBackend, Labels
from gateway.work import Work
from tests.kit import DEV, ECHO, PERMIT, Lab, of_calls


@dataclass
class Journal(MemoryLedger):
    """A ledger that shares a journal of calls with the runner, and can be told to refuse lines of a type."""

    events: list[str] = field(default_factory=list)
    refuses: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    async def append(self, line: Line) -> Position:
        self.events += [each.type for each in of_calls([line])]
        if line.type == self.refuses:
            raise refuse("audit_unavailable", "The audit log cannot be written.", retry_after_ms=10)
        return await super().append(line)


@dataclass
class Worker:
    """A runner that does what it is told and writes that into the journal."""

    journal: list[str]
    does: RawOutput | Exception | float = field(default_factory=lambda: RawOutput("ok"))
    running: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, work: Work) -> RawOutput:
        self.journal.append("run")
        self.running += 1
        self.started.set()
        try:
            if isinstance(self.does, float):
                await asyncio.sleep(self.does)
                return RawOutput("late")
            if isinstance(self.does, Exception):
                raise self.does
            return self.does
        finally:
            self.running -= 1


def lab_with(worker: Worker, ledger: Journal, specs: str = ECHO) -> Lab:
    """A lab whose http tools are run by `worker` and whose ledger is `ledger`."""
    lab = Lab.of({"echo.yaml": specs}, {"lab.yaml": PERMIT})
    lab.gate = replace(lab.gate, runners={HttpBackend: worker}, ledger=ledger)
    return lab


def journalled(does: RawOutput | Exception | float | None = None, specs: str = ECHO) -> tuple[Lab, Worker, Journal]:
    """A lab, its runner and its ledger, sharing one journal."""
    ledger = Journal()
    worker = Worker(ledger.events) if does is None else Worker(ledger.events, does)
    return lab_with(worker, ledger, specs), worker, ledger


def test_a_call_is_on_record_before_it_runs_and_again_before_it_is_answered() -> None:
    """Intent, run, outcome: in this order, and nothing else."""
    lab, _, ledger = journalled()
    outcome = asyncio.run(lab.call("echo", {"text": "7"}))
    assert outcome.status == "done"
    assert ledger.events == ["call.intent", "run", "call.outcome"]
    assert outcome.position == Position("memory", 2)


def test_nothing_runs_when_the_intent_cannot_be_written() -> None:
    """No durable intent, no execution: the call is refused and may be tried again."""
    lab, _, ledger = journalled()
    ledger.refuses = "call.intent"
    outcome = asyncio.run(lab.call("echo", {"text": "7"}))
    assert outcome.problem is not None
    assert (outcome.status, outcome.problem.code) == ("refused", "audit_unavailable")
    assert "run" not in ledger.events


def test_a_result_is_withheld_when_its_outcome_cannot_be_written() -> None:
    """What is not on record does not leave the gateway."""
    lab, _, ledger = journalled(RawOutput("the result"))
    ledger.refuses = "call.outcome"
    outcome = asyncio.run(lab.call("echo", {"text": "7"}))
    assert outcome.problem is not None
    assert outcome.problem.code == "audit_unavailable"
    assert "the result" not in repr(outcome)
    assert outcome.position is None
    said = f"{outcome.problem.detail} {outcome.problem.advice}"
    assert "may have run" in said
    assert "Nothing ran" not in said
    assert outcome.problem.retry_after_ms is None


def test_a_result_whose_labels_cannot_be_kept_is_withheld_on_record() -> None:
    """Nobody reads personal data out of a session that does not know of it."""

    class Full(MemorySessions):
        async def spend(self, session: Session, labels: Labels, cost: float) -> None:
            raise refuse("audit_unavailable", "The session cannot be kept.")

    lab, _, ledger = journalled(RawOutput("the result"))
    lab.gate = replace(lab.gate, sessions=Full())
    outcome = asyncio.run(lab.call("echo", {"text": "7"}))
    assert outcome.problem is not None
    assert (outcome.status, outcome.problem.code) == ("failed", "internal")
    assert "the result" not in repr(outcome)
    assert ledger.events == ["call.intent", "run", "call.outcome"]


def test_a_refusal_is_an_outcome_on_record_not_an_exception() -> None:
    """Whatever stage says no, the caller gets an Outcome and the ledger one line."""
    lab, _, ledger = journalled()
    outcome = asyncio.run(lab.call("echo", {"text": "war"}))
    assert outcome.problem is not None
    assert (outcome.status, outcome.problem.code, outcome.problem.rule) == ("refused", "forbidden", "no-war")
    assert outcome.problem.detail == "We do not talk of war."
    assert ledger.events == ["call.refused"]


def test_a_refused_call_cannot_fill_the_disk_with_its_arguments() -> None:
    """Refusals spend no rate, so of large arguments only digest and size are kept; of small ones everything."""
    lab, _, ledger = journalled()

    async def both() -> None:
        await lab.call("no_such_tool", {"text": "7"})
        await lab.call("no_such_tool", {"text": "y" * 100_000})

    asyncio.run(both())
    small, large = (line.content for line in of_calls(ledger.lines))
    assert small == {"arguments": {"text": "7"}}
    assert large == {"arguments_bytes": 100_011}
    assert len({line.fields["args_digest"] for line in of_calls(ledger.lines)}) == 2


def test_an_unknown_caller_leaves_no_record() -> None:
    """A request without a valid key is not a call."""
    lab, _, ledger = journalled()
    outcome = asyncio.run(lab.call("echo", {"text": "7"}, "stranger"))
    assert outcome.problem is not None
    assert outcome.problem.code == "unauthenticated"
    assert ledger.events == []


def test_a_fault_of_ours_shows_no_detail() -> None:
    """An unexpected exception becomes `internal`, on record, without its text."""
    lab, _, ledger = journalled(ZeroDivisionError("the secret reason"))
    outcome = asyncio.run(lab.call("echo", {"text": "7"}))
    assert outcome.problem is not None
    assert (outcome.status, outcome.problem.code) == ("failed", "internal")
    assert "secret reason" not in repr(outcome)
    assert ledger.events == ["call.intent", "run", "call.outcome"]


def test_a_backend_that_was_never_reached_is_refused_although_its_intent_stands() -> None:
    """Nothing ran, so the outcome says refused: the caller may try again, and the record says what the caller read."""
    lab, _, ledger = journalled(Refusal(problem("upstream_unreachable", "Nobody is there.")))
    outcome = asyncio.run(lab.call("echo", {"text": "7"}))
    assert outcome.status == "refused"
    assert ledger.events == ["call.intent", "run", "call.outcome"]
    assert ledger.lines[-1].content == {"detail": "Nobody is there."}


def test_the_link_to_connect_an_account_is_not_on_record() -> None:
    """Its caller is shown it; whoever reads the record later could go through with it."""
    link = "Show this: https://gateway.test/connect/abc ."
    lab, _, ledger = journalled(Refusal(problem("account_required", "None is connected.", advice=link)))
    outcome = asyncio.run(lab.call("echo", {"text": "7"}))
    assert outcome.problem is not None
    assert outcome.problem.advice == link
    assert ledger.lines[-1].content == {"detail": "None is connected."}


def test_a_tool_that_failed_is_an_answer() -> None:
    """A failure is status failed with its problem, recorded as an outcome."""
    lab, _, _ = journalled(Failure(problem("upstream_error", "It broke.")))
    outcome = asyncio.run(lab.call("echo", {"text": "7"}))
    assert outcome.problem is not None
    assert (outcome.status, outcome.problem.code) == ("failed", "upstream_error")


def test_a_runner_that_does_not_come_back_ends_at_the_deadline() -> None:
    """The tool's timeout holds whatever the runner does."""
    lab, worker, _ = journalled(60.0, ECHO.replace("effects: [read]", "effects: [read]\ntimeout: 50ms"))
    outcome = asyncio.run(lab.call("echo", {"text": "7"}))
    assert outcome.problem is not None
    assert (outcome.status, outcome.problem.code) == ("failed", "timeout")
    assert worker.running == 0


def test_a_caller_who_goes_away_cancels_the_work_and_that_is_recorded() -> None:
    """The runner is cancelled, the lease given back, and the outcome says cancelled."""
    lab, worker, ledger = journalled(60.0)

    async def leave() -> None:
        task = asyncio.create_task(lab.call("echo", {"text": "7"}))
        await worker.started.wait()
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(leave())
    assert worker.running == 0
    assert ledger.lines[-1].type == "call.outcome"
    outcome = ledger.lines[-1].fields["outcome"]
    assert isinstance(outcome, dict)
    assert (outcome["status"], outcome["code"]) == ("failed", "cancelled")


def test_the_lease_covers_the_work_and_ends_with_it() -> None:
    """With room for one call at a time, a second is refused while the first runs and admitted after it."""
    lab, worker, _ = journalled(60.0, ECHO.replace("{calls: 100/1m}", "{concurrency: 1}"))

    async def overlap() -> list[str]:
        first = asyncio.create_task(lab.call("echo", {"text": "7"}))
        await worker.started.wait()
        second = await lab.call("echo", {"text": "7"})
        first.cancel()
        await asyncio.wait({first})
        worker.does = RawOutput("ok")
        third = await lab.call("echo", {"text": "7"})
        return [second.problem.code if second.problem else "", third.status]

    assert asyncio.run(overlap()) == ["concurrency_limited", "done"]


def test_a_refused_call_spends_no_rate() -> None:
    """Only admitted calls count: refusals before and after do not."""
    lab, _, _ = journalled(None, ECHO.replace("100/1m", "2/1m"))

    async def calls() -> list[str]:
        texts = ["war", "war", "7", "war", "7", "7"]
        outcomes = [await lab.call("echo", {"text": text}) for text in texts]
        return [outcome.problem.code if outcome.problem else outcome.status for outcome in outcomes]

    assert asyncio.run(calls()) == ["forbidden", "forbidden", "done", "forbidden", "done", "rate_limited"]


def test_a_rate_refusal_says_when_to_come_again() -> None:
    """The wait is the bucket's, in milliseconds."""
    lab, _, _ = journalled(None, ECHO.replace("100/1m", "1/1m"))

    async def twice() -> int | None:
        await lab.call("echo", {"text": "7"})
        second = await lab.call("echo", {"text": "7"})
        return second.problem.retry_after_ms if second.problem else None

    assert asyncio.run(twice()) == 60_000


def test_labels_of_a_result_are_in_the_session_before_the_next_call() -> None:
    """What a call has read is known to policy from then on."""
    fence = PERMIT + "- {id: fence, effect: forbid, match: {tools: [echo]}, when: ['\"pii\" in session.labels']}\n"
    spec = ECHO.replace("effects: [read]", "effects: [read]\nlabels: {output: [pii]}")
    lab = Lab.of({"echo.yaml": spec}, {"lab.yaml": fence})

    async def twice() -> list[str]:
        return [(await lab.call("echo", {"text": "7"})).status for _ in range(2)]

    assert asyncio.run(twice()) == ["done", "refused"]


def test_a_repeat_under_an_idempotency_key_runs_nothing() -> None:
    """One intent, one run, one outcome; the repeat is a record of its own and says what the first call gave."""
    lab, _, ledger = journalled()

    async def twice() -> list[str]:
        return [(await lab.call("echo", {"text": "7"}, idempotency_key="k-1")).text for _ in range(2)]

    assert asyncio.run(twice()) == ["ok", "ok"]
    assert ledger.events == ["call.intent", "run", "call.outcome", "call.repeated"]


def test_the_default_session_stays_closed_until_it_would_have_expired() -> None:
    """Closing it stops its caller; it is no way to shed the labels it has."""
    lab, _, _ = journalled()

    async def calls() -> list[str]:
        said = []
        for close in (False, True, False):
            if close:
                await lab.gate.sessions.close(DEV.key, "default")
            outcome = await lab.call("echo", {"text": "7"})
            said.append(outcome.problem.code if outcome.problem else outcome.status)
        kept = lab.gate.sessions.find(DEV.key, "default")
        assert kept is not None
        lab.gate.sessions.put(replace(kept, expires_at=0.0))  # type: ignore[attr-defined]  # the one in memory
        return [*said, (await lab.call("echo", {"text": "7"})).status]

    assert asyncio.run(calls()) == ["done", "session_closed", "session_closed", "done"]


def test_sessions_are_bound_to_their_principal() -> None:
    """A name of one's own opens on first use; an id given to somebody else answers as one that never was, on record."""
    lab, _, ledger = journalled()

    async def calls() -> list[str]:
        said = []
        for session in ("mine", "s_" + "0" * 32, "no spaces"):
            outcome = await lab.call("echo", {"text": "7"}, session=session)
            said.append(outcome.problem.code if outcome.problem else outcome.status)
        return said

    assert asyncio.run(calls()) == ["done", "session_closed", "malformed"]
    refused = [line for line in ledger.lines if line.type == "call.refused"]
    assert [line.fields["session_id"] for line in refused] == ["s_" + "0" * 32, "no spaces"]
    assert all(line.content is None and line.fields["args_digest"] for line in refused)
