"""Traps on the host that hostile code must not reach: a listener, two sockets, a file, a secret in the environment.

They only watch. Whoever connects, or shows the file's content or the secret, has escaped.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sandboxes.model import Exit


@dataclass(slots=True)
class Traps:
    """What was laid. `args` tells a probe where to look, except the two secrets."""

    args: dict[str, object]
    file_secret: str
    environment_secret: str
    sprung: list[str] = field(default_factory=list)

    def touched(self, exit: Exit) -> str | None:
        """The trap that was sprung since the last look, if any; also a secret in the answer."""
        said = exit.stdout + exit.stderr + repr(exit.value) + repr(dict(exit.files))
        for secret, name in ((self.file_secret, "the file"), (self.environment_secret, "the environment")):
            if secret in said:
                return name
        return self.sprung.pop() if self.sprung else None


@contextlib.contextmanager
def laid(folder: Path) -> Iterator[Traps]:
    """Lays the traps in `folder`, which is short enough for a socket's path."""
    name = f"toolgate-trap-{secrets.token_hex(4)}"
    file_secret, environment_secret = secrets.token_hex(16), secrets.token_hex(16)
    (folder / "secret.txt").write_text(file_secret)
    os.environ["TRAP_SECRET"] = environment_secret
    args: dict[str, object] = {"file": str(folder / "secret.txt"), "abstract": name, "socket": str(folder / "t.sock")}
    traps = Traps(args, file_secret, environment_secret)
    with contextlib.ExitStack() as stack:
        port = _listen(stack, traps, "the loopback listener", socket.AF_INET, ("127.0.0.1", 0))
        args["port"] = port.getsockname()[1]
        _listen(stack, traps, "the abstract socket", socket.AF_UNIX, f"\0{name}")
        _listen(stack, traps, "the socket file", socket.AF_UNIX, str(folder / "t.sock"))
        (folder / "t.sock").chmod(0o666)
        yield traps
    del os.environ["TRAP_SECRET"]


def _listen(
    stack: contextlib.ExitStack, traps: Traps, name: str, family: int, address: tuple[str, int] | str
) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listener.accept()
                traps.sprung.append(name)
                caller.close()

    def close() -> None:
        # A thread that waits in accept is woken by a shutdown, and by nothing else.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()

    threading.Thread(target=accept, daemon=True).start()
    stack.callback(close)
    return listener
