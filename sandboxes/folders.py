"""The folders of the sockets, `ROOT/INSTANCE/CONTAINER/gate.sock`, one per container; and which brokers still live.

A broker's instance is a folder with a lock that the broker holds as long as it lives, however it ends. Touches nothing
outside its root, follows no link there, and removes no folder of a living broker but its own.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import stat
from pathlib import Path
from typing import Final

from sandboxes.allow import Refused
from sandboxes.template import SOCKET

OWNER: Final = "owner"
LOCK: Final = "lock"
# Guests come in as another user: they may pass through, and not look around.
PASS: Final = 0o711
NAME_BYTES: Final = 8
_HEX: Final = frozenset("0123456789abcdef")


class Folders:
    """This broker's own folder under `root`, made and locked. Raises `Refused` if `root` cannot be trusted.

    owner: the same for all brokers that share the root, and only they can tell whether one of them still lives.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root)
        self._root.mkdir(mode=PASS, parents=True, exist_ok=True)
        found = self._root.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise Refused(f"{root} is not a folder that belongs to the broker's user alone")
        self.owner = self._owner()
        self.instance = secrets.token_hex(NAME_BYTES)
        self._own = self._root / self.instance
        self._own.mkdir(mode=PASS)
        self._own.chmod(PASS)
        self._lock = os.open(self._own / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _owner(self) -> str:
        """The random name of the owner, made by whoever comes first."""
        path = self._root / OWNER
        draft = self._root / f".{secrets.token_hex(8)}"
        draft.write_text(secrets.token_hex(8))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
        return path.read_text()

    def make(self, token: str) -> socket.socket:
        """The folder and the listening socket of a container; not blocking."""
        folder = self._own / token
        folder.mkdir()
        folder.chmod(0o755)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(folder / SOCKET))
            (folder / SOCKET).chmod(0o666)
            listener.listen(1)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            self.drop(token)
            raise
        return listener

    def path(self, token: str) -> str:
        return str(self._own / token)

    def shut(self, token: str) -> None:
        """Takes the socket away: nobody else can come in."""
        (self._own / token / SOCKET).unlink(missing_ok=True)

    def drop(self, token: str) -> None:
        shutil.rmtree(self._own / token, ignore_errors=True)

    def alive(self, instance: str) -> bool:
        """Whether the broker of that instance, one of this root, still lives. No instance's name counts as alive."""
        if instance == self.instance or not _is_instance(instance):
            return True
        try:
            lock = os.open(self._root / instance / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def strays(self) -> set[str]:
        """The instances that left a folder behind. Whatever else lies in the root is not ours."""
        found = {one.name for one in os.scandir(self._root) if one.is_dir(follow_symlinks=False)}
        return {name for name in found if not self.alive(name)}

    def sweep(self, instance: str) -> None:
        """Removes what a dead broker left."""
        if not self.alive(instance):
            shutil.rmtree(self._root / instance, ignore_errors=True)

    def close(self) -> None:
        """Removes this broker's own folder; from now on it counts as dead."""
        shutil.rmtree(self._own, ignore_errors=True)
        os.close(self._lock)


def _is_instance(name: str) -> bool:
    return len(name) == 2 * NAME_BYTES and _HEX.issuperset(name)
