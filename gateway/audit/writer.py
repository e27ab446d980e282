"""The writer: the `Ledger` of one worker. A line is durable when `append` returns, or it was refused.

The event loop gathers what is appended in one of its turns and makes lines of it together; one thread writes what there
is by then, or came while it was flushing, and flushes (group commit without a timer). A write or flush that fails is
never tried again on the same descriptor: everything not acknowledged is refused with `audit_unavailable`, cut off, and
a new segment is begun once the disk lets it. It never acknowledges what is not durable, never blocks the event loop on
the log's disk, and never writes to a log it cannot continue (`ledger.py` opens it only after recovery).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import perf_counter

from gateway.audit.content import INLINE, Contents, encode
from gateway.audit.lines import CLOSES, NOWHERE, WHOSE, Draft, Head, Lines, Sealing
from gateway.audit.rotation import SigningKey
from gateway.audit.shard import Shard, Tuning
from gateway.model import Position, Refusal
from gateway.ports import Line
from gateway.problems import refuse
from gateway.tool import Json

Waiter = asyncio.Future[None]


@dataclass(slots=True)
class Batch:
    """Lines written together. `begins` is the seq of its first line when it starts a segment; `head` stands once
    nothing more is added."""

    begins: int | None = None
    lines: list[bytes] = field(default_factory=list)
    waiting: list[Waiter] = field(default_factory=list)
    octets: int = 0
    head: Head = NOWHERE


class Writer:
    """See the module. Made by `open_ledger` only; `append` belongs to one event loop."""

    def __init__(
        self,
        shard: Shard,
        lines: Lines,
        contents: Contents,
        key: SigningKey,
        tuning: Tuning,
        clock: Callable[[], float],
    ) -> None:
        self.contents = contents
        self.key = key
        self._shard = shard
        self._tuning = tuning
        self._clock = clock
        self._lock = Lock()  # guards everything below that the loop fills and the thread takes
        self._lines = lines
        self._batches: deque[Batch] = deque([Batch()])
        self._taken: list[Batch] = []
        self._queued = 0  # bytes not yet durable
        self._gathered: list[tuple[Draft, Waiter]] = []  # in this turn of the loop, which alone knows of it
        self._gathered_octets = 0
        self._stopping = False
        self._asked = False  # for a checkpoint, before one is due
        self._works: deque[tuple[Callable[[Shard], None], Waiter]] = deque()
        self._down: OSError | None = None
        self._lost: dict[str, dict[str, Json]] = {}  # calls whose outcome was refused, by id: what is known of them
        self._segment_octets = 0
        self._segment_since = clock()
        self._rate = 10e6  # bytes a second that became durable lately
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=f"audit-{shard.name}", daemon=True)
        self._thread.start()

    # ── the port ─────────────────────────────────────────────────────────────────────────────────────────────────

    def check(self) -> None:
        """Raises `Refusal(audit_unavailable | audit_saturated)` when nothing could be written now."""
        if self._down is not None:
            raise self._unavailable(self._down)
        if self._stopping:
            raise self._unavailable("the log is closed")
        if self._queued + self._gathered_octets > self._tuning.queue:
            wait = max(10, int(1000 * self._queued / self._rate))
            raise refuse("audit_saturated", "More records wait for the disk than fit.", retry_after_ms=wait)

    async def append(self, line: Line) -> Position:
        """Writes one line; it is durable when this returns.

        Raises the refusals of `check`, and `ValueError` or `TypeError` for what cannot be a record (`Lines.add`). A
        call whose outcome is refused is written down as `call.in_doubt` as soon as something can be written.
        """
        try:
            self.check()
            sealing = None if line.content is None else self._sealing(line) or await self._prepare(line)
            draft = Draft(line.type, line.fields, sealing)
            loop = asyncio.get_running_loop()
            waiter: Waiter = loop.create_future()
            if not self._gathered:
                loop.call_soon(self._ring)
            self._gathered.append((draft, waiter))
            self._gathered_octets += len(draft.members) + (len(sealing.plain) if sealing else 0)
            await waiter
        except Refusal:
            self._lose(line)
            raise
        return Position(self._shard.name, draft.seq)

    def digest(self, tenant: str, value: bytes) -> str:
        """A keyed digest in hex (HMAC-SHA-256 under a tenant key). Raises `Refusal(audit_unavailable)`.

        The first digest of a tenant waits for its key to be durable; all others are memory only.
        """
        try:
            return self.contents.digest(tenant, value)
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error

    async def between(self, work: Callable[[Shard], None]) -> None:
        """Does something with the shard on the thread that writes, while it writes nothing; raises what that raises."""
        raised: list[Exception] = []

        def guarded(shard: Shard) -> None:
            try:
                work(shard)
            except (OSError, ValueError) as error:
                raised.append(error)

        waiter: Waiter = asyncio.get_running_loop().create_future()
        with self._lock:
            self.check()
            self._works.append((guarded, waiter))
        self._bell.put(None)
        await waiter
        if raised:
            raise raised[0]

    def checkpoint(self) -> None:
        """Wakes the thread to sign what is durable by then, if anything is new; nobody waits for it."""
        self._asked = True
        self._bell.put(None)

    async def close(self) -> None:
        """Writes what is queued and `log.closed`, signs, lets go of the shard. A second call does nothing."""
        if self._gathered:
            self._ring()
        with self._lock:
            self._stopping = True
        self._bell.put(None)
        await asyncio.to_thread(self._thread.join)
        self.contents.close()

    # ── on the event loop ────────────────────────────────────────────────────────────────────────────────────────

    def _ring(self) -> None:
        """Makes lines and wakes the thread once every callback that was due has run: what they wrote is one commit."""
        gathered, self._gathered, self._gathered_octets = self._gathered, [], 0
        try:
            with self._lock:
                self.check()
                self._add(gathered)
        except Refusal as refusal:
            _settle([waiter for _, waiter in gathered], refusal)
        except BaseException as bug:  # nobody else can tell those who wait
            _settle([waiter for _, waiter in gathered], self._unavailable(type(bug).__name__))
            raise
        self._bell.put(None)

    def _unavailable(self, why: object) -> Refusal:
        wait = max(10, int(1000 * self._tuning.retry))
        return refuse("audit_unavailable", f"The audit log cannot be written: {why}.", retry_after_ms=wait)

    def _sealing(self, line: Line) -> Sealing | None:
        """Key and plain bytes of a line's content, when nothing has to be waited for."""
        key = None if line.session is None else self.contents.cached(line.session)
        plain = encode(line.content)
        if key is None or line.session is None or len(plain) > INLINE:
            return None
        return Sealing(line.session, key, plain)

    async def _prepare(self, line: Line) -> Sealing:
        """The same, once a new key, and a blob, are durable."""
        if line.session is None or line.tenant is None:
            raise ValueError("a line with content names its session and tenant")
        plain = encode(line.content)
        try:
            key = self.contents.cached(line.session) or await self.contents.ensure(line.session, line.tenant)
            if len(plain) <= INLINE:
                return Sealing(line.session, key, plain)
            call_id = str(line.fields.get("call_id") or "")
            return Sealing(line.session, key, plain, await self.contents.store_blob(key, call_id, line.type, plain))
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error

    def _add(self, gathered: list[tuple[Draft, Waiter]]) -> None:
        if self._lost:
            for draft, _ in gathered:
                self._lost.pop(str(draft.call_id), None)
            self._settle_lost()
        if self._segment_since + self._tuning.segment_age < self._clock():
            self._begin_segment()
        for draft, waiter in gathered:
            if self._segment_octets > self._tuning.segment:
                self._begin_segment()
            self._put(self._lines.place(draft))
            self._batches[-1].waiting.append(waiter)

    def _put(self, line: bytes) -> None:
        batch = self._batches[-1]
        batch.lines.append(line)
        batch.octets += len(line)
        self._queued += len(line)
        self._segment_octets += len(line)

    def _begin_segment(self) -> None:
        self._batches[-1].head = self._lines.head()
        self._batches.append(Batch(begins=self._lines.seq))
        self._segment_octets = 0
        self._segment_since = self._clock()
        self._put(self._lines.opened(self._shard.gateway))

    def _lose(self, line: Line) -> None:
        """A call that ran, or may have run, without its outcome on record."""
        call_id = str(line.fields.get("call_id"))
        with self._lock:
            if line.type in CLOSES and call_id in self._lines.open_calls:
                known = {name: line.fields[name] for name in WHOSE if name in line.fields}
                self._lost[call_id] = {"call_id": call_id, "intent": self._lines.open_calls[call_id], **known}

    def _settle_lost(self) -> None:
        for known in self._lost.values():
            self._put(self._lines.add("call.in_doubt", known, None))
        self._lost = {}

    # ── in the thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            while self._gather():
                self._flush()
            self._end()
        except BaseException as bug:  # a dead thread must refuse those who wait; nobody else can
            self._fail(OSError(f"the writer failed: {type(bug).__name__}"))
            raise

    def _flush(self) -> None:
        try:
            for batch in self._taken:
                self._commit(batch)
            asked, self._asked = self._asked, False
            due = self._shard.until_checkpoint()
            if due == 0.0 or (asked and due is not None):
                self._shard.sign()
            while self._works:
                work, waiter = self._works[0]
                work(self._shard)
                self._works.popleft()
                _tell([waiter], None)
        except OSError as error:
            self._fail(error)
            self._come_back(error)

    def _gather(self) -> bool:
        """Takes everything that gathered, waiting for it or for a due checkpoint; False when it is time to stop."""
        if not self._stopping:
            with suppress(Empty):
                self._bell.get(timeout=self._shard.until_checkpoint())
        with self._lock:
            self._taken = self._swap()
            return bool(self._taken) or not self._stopping

    def _swap(self) -> list[Batch]:
        self._batches[-1].head = self._lines.head()
        batches = [batch for batch in self._batches if batch.lines]
        self._batches = deque([Batch()])
        return batches

    def _commit(self, batch: Batch) -> None:
        started = perf_counter()
        self._shard.write(batch.lines, batch.head, batch.begins)
        self._rate = batch.octets / max(perf_counter() - started, 1e-6)
        with self._lock:
            self._queued -= batch.octets
        _tell(batch.waiting, None)
        batch.waiting = []

    def _fail(self, error: OSError) -> None:
        """Refuses everything not acknowledged, and sets the lines back to what is durable."""
        self._shard.let_go()
        with self._lock:
            self._down = error
            waiting = [waiter for batch in (*self._taken, *self._batches) for waiter in batch.waiting]
            waiting += [waiter for _, waiter in self._works]
            self._works.clear()
            self._batches = deque([Batch()])
            self._queued = 0
            self._lines.reset(self._shard.head)
        _tell(waiting, self._unavailable(error))

    def _come_back(self, error: OSError) -> None:
        """Tries until the disk takes records again, or the writer stops."""
        noted = False
        while True:
            try:
                self._shard.cut()
                if not noted:
                    self._note(error)
                    noted = True
                if self._stopping:
                    return
                self._shard.regain()
            except OSError as latest:
                error = latest
                self._shard.let_go()
                self._lines.reset(self._shard.head)
                if self._stopping:
                    with suppress(OSError):  # else there is nowhere to say that it stops
                        self._shard.cut()
                    return
                with suppress(Empty):
                    self._bell.get(timeout=self._tuning.retry)
            else:
                with self._lock:
                    self._down = None
                return

    def _note(self, error: OSError) -> None:
        """The first line of a new segment says which failure came before it."""
        line = self._lines.opened(self._shard.gateway, after=str(error))
        self._shard.note(line, self._lines.head(), error)
        self._segment_octets = len(line)
        self._segment_since = self._clock()

    def _end(self) -> None:
        """`log.closed` and the last checkpoint; on a disk that still fails, there is nowhere to say it."""
        with self._lock:
            self._settle_lost()
            size, root = self._lines.seq, self._lines.head().root()
            self._put(self._lines.add("log.closed", {"size": size, "root": root.hex()}, None))
            self._taken = self._swap()
        with suppress(OSError):
            for batch in self._taken:
                self._commit(batch)
        with suppress(OSError):
            self._shard.close()
        _tell([waiter for _, waiter in self._works], self._unavailable("the log is closed"))


def _tell(waiting: list[Waiter], refusal: Refusal | None) -> None:
    """Wakes all who wait, in one call into their event loop; a loop that is closed has nobody waiting."""
    if waiting:
        with suppress(RuntimeError):
            waiting[0].get_loop().call_soon_threadsafe(_settle, waiting, refusal)


def _settle(waiting: list[Waiter], refusal: Refusal | None) -> None:
    for waiter in waiting:
        if not waiter.done():
            if refusal is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(Refusal(refusal.problem))
