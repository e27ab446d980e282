"""The policy in force, loaded anew while the gateway serves. It decides nothing, and never lets go of a good bundle.

A folder is taken when it looked the same twice, `settle` apart: what is being written is left alone. It takes the place
of the old one by one reference, so a call that pinned a bundle keeps it to its end and no call ever sees two. What does
not load, or fails its own tests, changes nothing but the log, the ledger and `/readyz`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from gateway.audit.text import printable
from gateway.folders import Look, look, read_as
from gateway.home import Home
from gateway.kept import keep
from gateway.loading import Loaded
from gateway.model import Refusal
from gateway.policy.bundle import PolicyBundle
from gateway.policy.paired import Paired
from gateway.ports import Bundle, Ledger, Line
from gateway.specs.yaml import SpecError, SpecErrors
from gateway.tool import Json

log = logging.getLogger("toolgate")
SETTLE = 0.5  # seconds between two looks at a folder
_LOOKS = 20  # at a folder that keeps changing, before a request to load it is refused
_TOLD = 20  # findings said of one load
_SAID = 500  # characters of each of them
Prepare = Callable[[PolicyBundle, Sequence[PolicyBundle]], Awaitable[None]]


class _Folder:
    """A policy folder: what of it is in force, and how it looked. `candidate`: it is heard, not followed."""

    def __init__(self, path: Path, *, candidate: bool) -> None:
        self.path, self.candidate = path, candidate
        self.bundle: PolicyBundle | None = None
        self.files: Mapping[str, bytes] = {}
        self.rejected = False
        self.seen: Look | None = None
        self.tried: Look | None = None

    @property
    def name(self) -> str:
        return "candidate" if self.candidate else "policy"


class Live:
    """`ports.Bundles` over folders that change. `start` it, then let `watch` run; `reload` looks at once.

    `prepare` is awaited with each new bundle, and those in force until then, before it is in force too; `say` gets
    what the operator should hear.
    """

    def __init__(
        self,
        loaded: Loaded,
        policies: Path,
        candidate: Path | None,
        home: Home,
        ledger: Ledger,
        screening: str,
        *,
        say: Callable[[str], None],
        prepare: Prepare | None = None,
        settle: float = SETTLE,
    ) -> None:
        self._loaded, self._home, self._ledger, self._screening = loaded, home, ledger, screening
        self._say, self._prepare, self._settle = say, prepare, settle
        self._policy = _Folder(policies, candidate=False)
        self._candidate = None if candidate is None else _Folder(candidate, candidate=True)
        self._folders = [folder for folder in (self._policy, self._candidate) if folder]
        self._current: Bundle = loaded.bundle
        self._loading = asyncio.Lock()
        self._wanted = self._served = 0
        self._asked = asyncio.Event()

    def current(self) -> Bundle:
        """The bundle in force: pin it once for each call."""
        return self._current

    def state(self) -> Mapping[str, Json]:
        """For each folder `ok`, or `rejected`: what it holds now is not what is in force."""
        return {folder.name: "rejected" if folder.rejected else "ok" for folder in self._folders}

    async def start(self) -> None:
        """Puts what was loaded in force and on record, and the candidate beside it if it loads. Raises `OSError`."""
        files, bundle = self._loaded.policies, self._loaded.bundle
        await asyncio.to_thread(keep, self._home, bundle.digest, files, self._loaded.catalogue.all())
        await self._enter(self._policy, files, bundle)
        if self._candidate is not None:
            await self._take(self._candidate, await asyncio.to_thread(look, self._candidate.path))

    async def watch(self) -> None:
        """Looks at the folders for ever, and at once when `ask`ed."""
        while True:
            try:
                await (self.reload() if await self._was_asked() else self._glance())
            except Exception:  # a background loop must outlive one bad look; the next one comes soon
                log.exception("the policy folders could not be looked at")

    def ask(self) -> None:
        """Has `watch` look at once. For a signal."""
        self._asked.set()

    async def reload(self) -> None:
        """Takes what the folders hold, as soon as they are quiet. Requests during a load are one load, after it."""
        self._wanted += 1
        mine = self._wanted
        async with self._loading:
            if self._served >= mine:
                return
            covers = self._wanted
            for folder in self._folders:
                await self._take_settled(folder)
            self._served = covers

    async def _was_asked(self) -> bool:
        """Whether somebody asked before it is time for the next glance."""
        try:
            async with asyncio.timeout(self._settle):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True

    async def _glance(self) -> None:
        """Takes each folder that is as it was at the last glance, and was not tried as it is."""
        async with self._loading:
            for folder in self._folders:
                now = await asyncio.to_thread(look, folder.path)
                settled, folder.seen = now == folder.seen, now
                if settled and now != folder.tried:
                    await self._take(folder, now)

    async def _take_settled(self, folder: _Folder) -> None:
        before = await asyncio.to_thread(look, folder.path)
        for _ in range(_LOOKS):
            await asyncio.sleep(self._settle)
            now = await asyncio.to_thread(look, folder.path)
            if now == before and await self._take(folder, now):
                return
            before = now
        await self._reject(folder, [SpecError(str(folder.path), 1, 1, "the folder keeps changing: it was not loaded")])

    async def _take(self, folder: _Folder, seen: Look) -> bool:
        """Loads a folder that looks like `seen`; False when it does not any more."""
        try:
            self._ledger.check()
            files = await asyncio.to_thread(read_as, folder.path, seen)
            if files is None:
                return False
            folder.tried = seen
            if folder.bundle is not None and files == folder.files:
                if folder.rejected:
                    self._tell(f"{folder.name} {folder.bundle.digest} stands in its folder again", ())
                folder.rejected = False
                return True
            bundle = await asyncio.to_thread(self._compiled, files)
            await self._enter(folder, files, bundle)
        except Refusal:
            folder.tried = None  # nothing can be put on record, as the ledger says itself: the next look tries again
        except SpecErrors as errors:
            folder.tried = seen
            await self._reject(folder, errors.findings)
        except Exception:  # a background loop must outlive one bad load, whatever it was; the last good bundle stays
            log.exception("%s could not be loaded", folder.path)
            folder.tried = seen
            await self._reject(folder, [SpecError(str(folder.path), 1, 1, "could not be loaded: the log says why")])
        return True

    def _compiled(self, files: Mapping[str, bytes]) -> PolicyBundle:
        """In a thread: compiled, tested and kept."""
        bundle = self._loaded.proven(files)
        keep(self._home, bundle.digest, files, self._loaded.catalogue.all())
        return bundle

    async def _enter(self, folder: _Folder, files: Mapping[str, bytes], bundle: PolicyBundle) -> None:
        previous = folder.bundle
        # From here on what is admitted counts for it too, so that what is read of the past has no gap after it.
        self._current = Paired(self._joined(), bundle, silent=True)
        try:
            if self._prepare is not None:
                await self._prepare(bundle, [each.bundle for each in self._folders if each.bundle])
            await self._ledger.append(self._loaded_line(folder, bundle))
            folder.bundle, folder.files, folder.rejected = bundle, files, False
        finally:
            self._current = self._joined()
        if previous is not None or folder.candidate:
            stands = "is heard, not followed" if folder.candidate else "is in force"
            self._tell(f"{folder.name} {bundle.digest} {stands}", bundle.findings)

    def _loaded_line(self, folder: _Folder, bundle: PolicyBundle) -> Line:
        tools: Json = {tool.name: tool.digest for tool in self._loaded.catalogue.all()}
        loaded: dict[str, Json] = {
            "bundle_digest": bundle.digest,
            "previous": folder.bundle.digest if folder.bundle else None,
            "candidate": folder.candidate,
            "findings": len(bundle.findings),
            "tools": tools,
            "screening": self._screening,
        }
        return Line("policy.loaded", loaded)

    def _joined(self) -> Bundle:
        live = self._policy.bundle or self._loaded.bundle
        candidate = self._candidate.bundle if self._candidate else None
        return Paired(live, candidate) if candidate else live

    async def _reject(self, folder: _Folder, findings: Sequence[SpecError]) -> None:
        folder.rejected = True
        if folder.candidate:  # an older one would be taken for the one that was just written
            folder.bundle, folder.files = None, {}
            self._current = self._joined()
        digest = folder.bundle.digest if folder.bundle else None
        self._tell(f"{folder.name} rejected; {digest or 'nothing'} stays in its place", findings)
        said: Json = [str(finding)[:_SAID] for finding in findings[:_TOLD]]
        rejected: dict[str, Json] = {"bundle_digest": digest, "candidate": folder.candidate}
        try:
            await self._ledger.append(Line("policy.rejected", rejected | {"findings": said, "count": len(findings)}))
        except Refusal as refusal:
            log.error("%s: its rejection is not on record: %s", folder.path, refusal.problem.code)

    def _tell(self, what: str, findings: Sequence[SpecError]) -> None:
        self._say(f"toolgate: {what}")
        for finding in findings[:_TOLD]:
            self._say(f"toolgate: {printable(str(finding))[:_SAID]}")
        if len(findings) > _TOLD:
            self._say(f"toolgate: and {len(findings) - _TOLD} more findings")
