"""The worker: a process that runs guests for its parent, one job at a time, each in a VM of its own.

It reads jobs from one socket and has nothing else: no environment, no other descriptor, no way to gain privileges, and
it dies with its parent. It may be killed at any moment and must never be trusted with more than the job at hand.
"""

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from typing import Final

from wasmtime import Store, WasmtimeError
from wasmtime.component import Func

from sandboxes.frames import FrameError, pack, pack_json, receive, unpack_object
from sandboxes.model import ARGS_CAP, MIB
from sandboxes.wasm_engine import PARKED, Guest

EXIT: Final = ".exit"
JOB_CAP: Final = 64 * MIB
TICK: Final = 0.005
STACK: Final = 16 * MIB
PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38
DESCRIPTORS: Final = 16


class Stopped(Exception):
    """Raised out of a host call to end the guest. `how` goes to the parent, with the guest's answer if it gave one."""

    def __init__(self, how: str, answer: str | None = None) -> None:
        super().__init__(how)
        self.how = how
        self.answer = answer


class Alarm:
    """Interrupts the guest when its time is up. Waits in the main thread, and ticks only while a job runs."""

    def __init__(self, guest: Guest) -> None:
        self._engine = guest.engine
        self._lock = threading.Lock()
        self._armed = threading.Event()
        self._due: float | None = None

    def set(self, due: float) -> None:
        with self._lock:
            self._due = due
            self._armed.set()

    def clear(self) -> None:
        # Under the lock: once cleared, no late tick can reach the next job.
        with self._lock:
            self._due = None

    def run(self) -> None:
        while True:
            self._armed.wait()
            with self._lock:
                due = self._due
                if due is None:
                    self._armed.clear()
                elif time.monotonic() >= due:
                    self._engine.increment_epoch()
            left = TICK if due is None else max(due - time.monotonic(), 0.001)
            time.sleep(min(left, TICK))


class Worker:
    """Serves jobs from `channel`. VMs are made ahead, and dropped after the answer has been sent."""

    def __init__(self, channel: socket.socket, cwasm: str) -> None:
        self._channel = channel
        self._guest = Guest(cwasm, self._on_call)
        self.alarm = Alarm(self._guest)
        self._parked: list[tuple[Store, Func]] = []
        self._spent: list[Store] = []
        self._calls_left = 0

    def serve(self) -> None:
        while self._park():
            pass
        self._channel.sendall(pack_json({"kind": "ready"}))
        while True:
            while not self._readable() and (self._drop() or self._park()):
                pass
            self._run(unpack_object(receive(self._channel, JOB_CAP)))

    def _readable(self) -> bool:
        return bool(select.select([self._channel], [], [], 0)[0])

    def _drop(self) -> bool:
        if self._spent:
            # Closed by hand: the traceback of a stopped guest can keep the object alive, and with it the slot.
            self._spent.pop().close()
            return True
        return False

    def _park(self) -> bool:
        if len(self._parked) < PARKED:
            self._parked.append(self._guest.fresh())
            return True
        return False

    def _run(self, job: dict[str, object]) -> None:
        wall, memory, cap = float(str(job["wall"])), int(str(job["memory"])), int(str(job["answer_cap"]))
        self._calls_left = int(str(job["host_calls"]))
        while not self._parked and (self._drop() or self._park()):
            pass
        store, run = self._parked.pop()
        store.set_limits(memory_size=memory)
        store.set_epoch_deadline(1)
        start = time.monotonic()
        self.alarm.set(start + wall)
        answer: str | None
        try:
            answer = run(store, job["program"], job["args"], job["terms"])
            how = "returned"
        except Stopped as stopped:
            how, answer = stopped.how, stopped.answer
        except WasmtimeError as error:
            how, answer = classify(error), None
        finally:
            self.alarm.clear()
        ms = (time.monotonic() - start) * 1000
        if answer is not None and len(answer) > cap:
            how, answer = "oversize", None
        frames = pack_json({"kind": "exit", "how": how, "ms": round(ms, 3)})
        if answer is not None:
            frames += pack(answer.encode())
        self._channel.sendall(frames)
        # The parent was just woken, perhaps on this very CPU: it answers its caller before we clean up.
        os.sched_yield()
        self._spent.append(store)

    def _on_call(self, _store: object, name: str, args: str) -> str:
        if name == EXIT:
            raise Stopped("returned", args)
        if self._calls_left <= 0:
            raise Stopped("host_calls")
        self._calls_left -= 1
        if len(name) + len(args) > ARGS_CAP:
            return json.dumps({"error": f"the arguments are over {ARGS_CAP} characters"})
        self._channel.sendall(pack_json({"kind": "call", "name": name, "args": args}))
        return receive(self._channel, JOB_CAP).decode(errors="replace")


def classify(error: WasmtimeError) -> str:
    """How a guest was stopped, by the last line of wasmtime's message."""
    cause = str(error).rstrip().rsplit("\n", 1)[-1]
    if "interrupt" in cause:
        return "interrupt"
    if "call stack exhausted" in cause:
        return "stack"
    return "aborted"


def confine(parent: int) -> None:
    """Gives up what this process does not need. Raises `OSError` where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_PDEATHSIG, int(signal.SIGKILL)), (PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        raise OSError("the parent is already gone")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(worker: Worker) -> None:
    try:
        worker.serve()
    except (EOFError, FrameError, OSError):
        pass  # the parent is gone
    finally:
        os._exit(0)


def main(cwasm: str, descriptor: str, parent: str) -> None:
    channel = socket.socket(fileno=int(descriptor))
    try:
        confine(int(parent))
        worker = Worker(channel, cwasm)
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    except (OSError, ValueError, WasmtimeError) as error:
        channel.sendall(pack_json({"kind": "failed", "text": str(error)[:500]}))
        return
    # The guest's stack is the thread's: a size of our own choice, whatever ulimit says.
    threading.stack_size(STACK)
    threading.Thread(target=serve, args=(worker,), daemon=True).start()
    worker.alarm.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
