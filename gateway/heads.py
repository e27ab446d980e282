"""Where signed heads go besides the home folder, as settings name it: the texts, the sinks made of them, their costs.

A target is `stdout`, `file:/FOLDER`, `syslog`, `syslog://HOST:PORT`, or an `https://` (or `http://`) URL. It
reads no head itself and brings none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.audit.drops import FolderDrop, LineDrop, SystemLog
from gateway.ledger_ports import HeadSink
from gateway.runners.collector import Collector
from gateway.runners.net import Net
from gateway.runners.syslog import Receiver
from gateway.urls import BadUrl, Url, parse_url

STDOUT = "stdout"
SYSLOG = "syslog"
_FILE = "file:"
_RECEIVER = "syslog://"


def folder_of(target: str) -> Path | None:
    """The folder that a target names; `None` when it is no folder."""
    return Path(target.removeprefix(_FILE)) if target.startswith(_FILE) else None


def checked(target: str) -> str:
    """The target, when it is one. Raises `ValueError`."""
    folder = folder_of(target)
    if folder is not None:
        if not folder.is_absolute():
            raise ValueError("file: is followed by the absolute path of a folder")
    elif target.startswith(("https://", "http://", _RECEIVER)):
        try:
            _receiver(target) if target.startswith(_RECEIVER) else parse_url(target)
        except BadUrl as bad:
            raise ValueError(bad.reason) from None
    elif target not in (STDOUT, SYSLOG):
        raise ValueError("a target is stdout, syslog, syslog://HOST:PORT, file:/FOLDER or https://HOST/PATH")
    return target


def _receiver(target: str) -> Url:
    """Host and port of a receiver. Raises `BadUrl`, and `ValueError` for what is more or less than that."""
    place = target.removeprefix(_RECEIVER)
    host, _, port = place.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not set("/?#@").isdisjoint(place):
        raise ValueError("syslog:// is followed by HOST:PORT and nothing else")
    return parse_url(f"http://{place}/")


def make_sink(target: str, net: Net) -> HeadSink:
    """The sink of a target that was `checked`."""
    folder = folder_of(target)
    if folder is not None:
        return FolderDrop(target, folder)
    if target.startswith(_RECEIVER):
        return Receiver(target, _receiver(target), net)
    if target == SYSLOG:
        return SystemLog(target)
    return LineDrop(target, 1) if target == STDOUT else Collector(target, net)


def weaknesses(target: str, home: Path) -> Iterator[str]:
    """Why heads that are kept there may prove less than it seems, as far as that can be seen from here."""
    folder = folder_of(target)
    if target == SYSLOG:
        yield "is this host's own log: the heads are off this host only if that sends them on"
    elif target.startswith(("http://", _RECEIVER)):
        yield "is not TLS: whoever is on the way can swallow heads as if they were kept"
    elif folder is not None and folder.resolve().is_relative_to(home.resolve()):
        yield "lies in the home folder: whoever can rewrite the log can rewrite these heads too"
    elif folder is not None and _same_disk(folder, home):
        yield "is on the disk of the log: mount one there that this host can only add to"


def _same_disk(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_dev == other.stat().st_dev
    except OSError:
        return False
