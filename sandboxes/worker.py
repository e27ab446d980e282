"""The worker: a process that runs guests for its parent, one job at a time, each in a VM of its own.

It reads jobs from one socket and has nothing else: `sandboxes.confine` sees to that before the first job. It may be
killed at any moment and must never be trusted with more than the job at hand.
"""

import json
import os
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from wasmtime import Trap, WasmtimeError

from sandboxes.confine import CHANNEL, DESCRIPTORS, loaded, seal, shed
from sandboxes.frames import TIME_IS_UP, FrameError, pack, pack_json, receive, unpack_object
from sandboxes.guest import VM, Guest, OnGuestCall, Stopped
from sandboxes.js_guest import JsGuest
from sandboxes.model import ARGS_CAP, MIB
from sandboxes.module_guest import ComponentGuest, ModuleGuest
from sandboxes.python_guest import PythonGuest
from sandboxes.wasm_engine import PARKED

# What a worker can serve: the kind in its argv, and what loads the file of native code.
Load = Callable[[str, OnGuestCall], Guest]
KINDS: Final[Mapping[str, Load]] = MappingProxyType(
    {"python": PythonGuest, "js": JsGuest, "module": ModuleGuest, "component": ComponentGuest}
)

EXIT: Final = ".exit"
JOB_CAP: Final = 64 * MIB
TICK: Final = 0.005
STACK: Final = 32 * MIB


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

    def __init__(self, channel: socket.socket, load: Load, cwasm: str, parent: int) -> None:
        """Loads the guest, makes the first VMs, and sheds what loading took. Raises what any of it raises."""
        self._channel = channel
        self._guest = load(cwasm, self._on_call)
        self.alarm = Alarm(self._guest)
        self._parked: list[VM] = []
        self._spent: list[VM] = []
        self._calls_left = 0
        while self._park():
            pass
        self._has = loaded(cwasm, self._guest.reserve)
        self._walls = shed(parent)

    def serve(self) -> None:
        try:
            walls = seal(self._walls, self._has)
        except OSError as error:
            refuse(self._channel, error)
            return
        ready = {"kind": "ready", "guarantees": sorted(self._guest.guarantees), "walls": walls}
        self._channel.sendall(pack_json(ready))
        while True:
            while not self._readable() and (self._drop() or self._park()):
                pass
            self._run(unpack_object(receive(self._channel, JOB_CAP)))

    def _readable(self) -> bool:
        return bool(select.select([self._channel], [], [], 0)[0])

    def _drop(self) -> bool:
        if self._spent:
            self._guest.close(self._spent.pop())
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
        vm = self._parked.pop()
        self._guest.limit(vm, memory)
        start, cpu = time.monotonic(), time.thread_time()
        self.alarm.set(start + wall)
        answer: str | None
        try:
            answer = self._guest.run(vm, job)
            how = "returned"
        except Stopped as stopped:
            how, answer = stopped.how, stopped.answer
        except (WasmtimeError, Trap) as error:
            how, answer = classify(error), None
        finally:
            self.alarm.clear()
        ms, cpu_ms = (time.monotonic() - start) * 1000, (time.thread_time() - cpu) * 1000
        if answer is not None and len(answer) > cap:
            how, answer = "oversize", None
        used = {"ms": round(ms, 3), "cpu_ms": round(cpu_ms, 3), "memory": self._guest.memory(vm)}
        frames = pack_json({"kind": "exit", "how": how, **used})
        if answer is not None:
            frames += pack(answer.encode())
        self._channel.sendall(frames)
        # The parent was just woken, perhaps on this very CPU: it answers its caller before we clean up.
        os.sched_yield()
        self._spent.append(vm)

    def _on_call(self, name: str, args: str) -> str:
        if name == EXIT:
            raise Stopped("returned", args)
        if self._calls_left <= 0:
            raise Stopped("host_calls")
        self._calls_left -= 1
        if len(name) + len(args) > ARGS_CAP:
            return json.dumps({"error": f"the arguments are over {ARGS_CAP} characters"})
        self._channel.sendall(pack_json({"kind": "call", "name": name, "args": args}))
        reply = receive(self._channel, JOB_CAP)
        if reply == TIME_IS_UP:
            raise Stopped("interrupt")
        return reply.decode(errors="replace")


def classify(error: Exception) -> str:
    """How a guest was stopped, by the last line of wasmtime's message."""
    cause = str(error).rstrip().rsplit("\n", 1)[-1]
    if "interrupt" in cause:
        return "interrupt"
    if "call stack exhausted" in cause:
        return "stack"
    return "aborted"


def serve(worker: Worker) -> None:
    try:
        worker.serve()
    except (EOFError, FrameError, OSError):
        pass  # the parent is gone
    finally:
        os._exit(0)


def main(load: Load, cwasm: str, descriptor: str, parent: str) -> None:
    """Loads a guest, gives up everything else, and serves until the parent is gone."""
    os.dup2(int(descriptor), CHANNEL, inheritable=False)
    os.close(int(descriptor))
    channel = socket.socket(fileno=CHANNEL)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        worker = Worker(channel, load, cwasm, int(parent))
    except (OSError, ValueError, WasmtimeError) as error:
        refuse(channel, error)
        return
    # The guest's stack is the thread's: a size of our own choice, whatever ulimit says.
    threading.stack_size(STACK)
    threading.Thread(target=serve, args=(worker,), daemon=True).start()
    worker.alarm.run()


def refuse(channel: socket.socket, error: Exception) -> None:
    channel.sendall(pack_json({"kind": "failed", "text": str(error)[:500]}))


if __name__ == "__main__":
    main(KINDS[sys.argv[1]], *sys.argv[2:])
