"""The files a call names as inputs: found between stages 3 and 4, so that policy sees their labels; read in stage 8.

It never gives a call what its caller does not own, and says the same of a handle that is unknown, expired or foreign.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.artifacts import MAX_FILES, MAX_TOTAL, is_file_name, is_handle
from gateway.model import Arguments, Artifact, Call, Caller, Refusal
from gateway.ports import Artifacts
from gateway.problems import problem
from gateway.tool import Fix, Json, Labels, SandboxBackend, Tool

NO_INPUTS: Mapping[str, Artifact] = {}
_NO_BYTES: Mapping[str, bytes] = {}
_NO_LABELS: Labels = frozenset()
_ARGUMENT = "files"
_NAMES = "a file name: 1 to 100 of A-Z a-z 0-9 . _ - that does not begin with . or -"
_HANDLES = "a handle that the result of a call of yours gave (sha256:…), while it is kept"


async def find_inputs(tool: Tool, arguments: Arguments, caller: Caller, artifacts: Artifacts) -> Mapping[str, Artifact]:
    """The artifacts that the argument `files` names (file name → handle), for a tool that takes files.

    Raises:
        Refusal: `invalid_arguments`, with what to repair.
    """
    backend = tool.backend
    if not (isinstance(backend, SandboxBackend) and backend.files_in):
        return NO_INPUTS
    named = arguments.get(_ARGUMENT)
    if not named:
        return NO_INPUTS
    if not isinstance(named, dict) or len(named) > MAX_FILES:
        raise _refused("", "something else", f"an object of at most {MAX_FILES} files: name → handle")
    found = {name: await _found(name, handle, caller, artifacts) for name, handle in named.items()}
    total = sum(artifact.size for artifact in found.values())
    if total > MAX_TOTAL:
        raise _refused("", f"{total} bytes of files", f"at most {MAX_TOTAL} bytes in all")
    return found


async def read_inputs(call: Call, artifacts: Artifacts) -> Mapping[str, bytes]:
    """The bytes of a call's inputs. Raises `Refusal(not_found)` for one that went, or was altered, meanwhile."""
    if not call.inputs:
        return _NO_BYTES
    return {name: await artifacts.read(artifact) for name, artifact in call.inputs.items()}


def labels_of(call: Call) -> Labels:
    """The labels of all inputs of a call."""
    return _NO_LABELS.union(*(artifact.labels for artifact in call.inputs.values())) if call.inputs else _NO_LABELS


async def _found(name: str, handle: Json, caller: Caller, artifacts: Artifacts) -> Artifact:
    if not is_file_name(name):
        raise _refused("", "another name", _NAMES)
    found = await artifacts.find(caller.principal.key, str(handle)) if is_handle(handle) else None
    if found is None:
        raise _refused(f"/{name}", "a handle nothing is kept under", _HANDLES)
    return found


def _refused(below: str, received: str, allowed: str) -> Refusal:
    fix = Fix(f"/{_ARGUMENT}{below}", received, allowed)
    return Refusal(problem("invalid_arguments", f"At {fix.pointer}: {received}, allowed: {allowed}.", fix=(fix,)))
