"""A Docker engine of the tests' own: installed where it is missing, started when first asked for, stopped by the last.

It stands beside whatever engine the machine has: own data, own sockets, no bridge, no packet filter. What it keeps from
one run to the next (images, a base made of packages) lies in one cache folder. Tests never touch another engine, unless
TOOLGATE_TESTS_ENGINE names one to be used instead (then `toolgate-base` must be there).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import docker
import requests

from sandboxes.images.build import HERE, CannotBuild, ensure, import_base, make_base

CACHE = Path(os.environ.get("TOOLGATE_TESTS", "~/.cache/toolgate/tests")).expanduser() / "docker"
GIVEN = os.environ.get("TOOLGATE_TESTS_ENGINE", "")
PROGRAMS = {"dockerd": "docker.io", "debootstrap": "debootstrap"}
# Replaces itself by what follows: what a test started is told to end when the test's process dies, however it dies.
WITH_US = ("setpriv", "--pdeathsig", "TERM")
# Bounds a hang.
PATIENCE = 90.0


class NoEngine(Exception):
    """There is no engine and none can be had; the text says why."""


@dataclass(frozen=True)
class Engine:
    """A running engine. address: `unix://…`. images: recipe → id, and "base". pid: 0 if it is not ours to stop."""

    address: str
    images: dict[str, str]
    pid: int

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.address, timeout=60)

    def hang(self) -> None:
        """The engine no longer answers, as one that is stuck; `recover` ends that."""
        os.kill(self.pid, signal.SIGSTOP)

    def recover(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """The engine is gone, with every container it had. Its images stay."""
        _stop(self.address, self.pid)


@contextlib.contextmanager
def shared() -> Iterator[Engine]:
    """The engine of all test processes, with the base and the runner images. Raises `NoEngine`."""
    if GIVEN:
        yield Engine(GIVEN, _images(GIVEN), 0)
        return
    run = _run_folder(CACHE)
    with (run / "users").open("w") as users:
        with _locked(run / "lock"):
            engine = _running(run) or _start(CACHE / "data", run)
            # Held until we are done: whoever gets it alone is the last.
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            with _locked(run / "lock"):
                images = _images(engine[0])
            yield Engine(engine[0], images, engine[1])
        finally:
            fcntl.flock(users, fcntl.LOCK_UN)
            with _locked(run / "lock"):
                _stop_unless_used(users, *engine)


@contextlib.contextmanager
def throwaway(folder: Path, like: Engine) -> Iterator[Engine]:
    """An engine that a test may stop or hang, with the Python image of `like`. Gone, with its data, at the end."""
    saved = _saved(like)
    run = _run_folder(folder)
    address, pid = _start(folder / "data", run, *WITH_US)
    try:
        with (
            saved.open("rb") as tar,
            contextlib.closing(docker.DockerClient(base_url=address, timeout=PATIENCE)) as client,
        ):
            client.images.load(tar)
        yield Engine(address, {"python": like.images["python"]}, pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        _stop(address, pid)
        shutil.rmtree(folder / "data", ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)


def restart(engine: Engine, folder: Path) -> Engine:
    """The throwaway engine of `folder` again, after `stop`: same address, another process."""
    address, pid = _start(folder / "data", _run_folder(folder), *WITH_US)
    return Engine(address, engine.images, pid)


def _run_folder(key: Path) -> Path:
    """A short path for sockets, always the same for one folder of data, and nobody else's."""
    run = Path("/tmp") / f"tg-engine-{os.getuid()}-{hashlib.sha256(str(key.resolve()).encode()).hexdigest()[:8]}"
    run.mkdir(mode=0o700, exist_ok=True)
    if run.lstat().st_uid != os.getuid() or run.lstat().st_mode & 0o077:
        raise NoEngine(f"{run} belongs to somebody else")
    return run


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _running(run: Path) -> tuple[str, int] | None:
    address = f"unix://{run}/docker.sock"
    try:
        pid = int((run / "docker.pid").read_text())
        return (address, pid) if _answers(address) else None
    except (OSError, ValueError):
        return None


def _answers(address: str) -> bool:
    try:
        with contextlib.closing(docker.DockerClient(base_url=address, timeout=5)) as client:
            return bool(client.ping())
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        return False


def _start(data: Path, run: Path, *with_us: str) -> tuple[str, int]:
    """Address and process id. with_us: a command that runs it, such as `WITH_US`, which ends it when we end."""
    install()
    data.mkdir(parents=True, exist_ok=True)
    address = f"unix://{run}/docker.sock"
    options = [f"--data-root={data}", f"--exec-root={run}/exec", f"--pidfile={run}/docker.pid", f"--host={address}"]
    options += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
    for stale in ("docker.pid", "exec/containerd/containerd.pid"):
        (run / stale).unlink(missing_ok=True)
    with (run / "log").open("w") as log:
        started = subprocess.Popen([*with_us, "dockerd", *options], stdout=log, stderr=log, start_new_session=True)
    due = time.monotonic() + PATIENCE
    while not _answers(address):
        if started.poll() is not None or time.monotonic() > due:
            _stop(address, started.pid)
            raise NoEngine(f"dockerd does not start: {(run / 'log').read_text()[-500:]}")
        time.sleep(0.1)
    return address, started.pid


def install() -> None:
    """Has the engine's programs, from Debian's packages if need be and if we may. Raises `NoEngine`."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if not missing:
        return
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        raise NoEngine(f"{', '.join(missing)} not installed, and only root on Debian can install them here")
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        ran = subprocess.run(["apt-get", "-q", *arguments], env=environ, capture_output=True, text=True, timeout=600)
        if ran.returncode:
            raise NoEngine(f"apt-get {arguments[0]}: {ran.stderr[-500:]}")


def _images(address: str) -> dict[str, str]:
    """The base and the runner images as they are in this checkout; built where they are not there yet."""
    try:
        with contextlib.closing(docker.DockerClient(base_url=address, timeout=PATIENCE)) as client:
            if not GIVEN:
                _base(client)
            images = ensure(CACHE, engine=address)
            return images | {"base": str(client.images.get("toolgate-base").id)}
    except (CannotBuild, OSError, docker.errors.DockerException) as error:
        raise NoEngine(str(error)) from error


def _base(client: docker.DockerClient) -> None:
    """Imports the base once for each version of its recipe; the root file system itself is kept as a tar."""
    recipe = hashlib.sha256((HERE / "make_base").read_bytes()).hexdigest()[:12]
    tar = CACHE / f"base-{recipe}.tar"
    if tar.exists() and client.images.list("toolgate-base"):
        return
    if not tar.exists():
        new = tar.with_suffix(f".{os.getpid()}")
        with new.open("wb") as file:
            make_base(file)
        new.replace(tar)
    import_base(client, tar)


def _saved(engine: Engine) -> Path:
    """The Python image as a tar that another engine can load."""
    image = engine.images["python"]
    saved = CACHE / f"python-{image.removeprefix('sha256:')[:12]}.tar"
    with _locked(CACHE / "saving"):
        if not saved.exists():
            for old in CACHE.glob("python-*.tar"):
                old.unlink()
            new = saved.with_suffix(".new")
            with new.open("wb") as file, contextlib.closing(engine.client()) as client:
                file.writelines(client.images.get(image).save())
            new.replace(saved)
    return saved


def _stop_unless_used(users: IO[str], address: str, pid: int) -> None:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    _stop(address, pid)


def _stop(address: str, pid: int) -> None:
    """Removes every container, then ends the engine; waits until it is gone."""
    if _answers(address):
        with contextlib.closing(docker.DockerClient(base_url=address, timeout=PATIENCE)) as client:
            for container in client.containers.list(all=True, ignore_removed=True):
                with contextlib.suppress(docker.errors.APIError):
                    container.remove(force=True)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    due = time.monotonic() + PATIENCE
    while _alive(pid) and time.monotonic() < due:
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
