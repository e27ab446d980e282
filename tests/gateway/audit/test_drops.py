"""Sinks that are a folder or a descriptor: whole files, never replaced; one line a head; what hangs holds up nobody."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from pathlib import Path

import pytest

from gateway.audit.drops import FolderDrop, LineDrop, SystemLog
from gateway.ledger_ports import HeadSink, NotTaken, SignedHead

HEAD = SignedHead("w1", 7, b"toolgate-1/w1\n7\nAAAA\n\n\xe2\x80\x94 toolgate-1 BBBB\n")


def refused(sink: HeadSink, head: SignedHead) -> str:
    """Why a sink does not take a head."""
    with pytest.raises(NotTaken) as caught:
        asyncio.run(sink.take(head))
    return str(caught.value)


def test_a_head_is_a_file_of_its_own(tmp_path: Path) -> None:
    """The note stands byte for byte under shard and size; the same head again changes nothing; nothing else is left."""
    drop = FolderDrop("file:drop", tmp_path)
    for head in (HEAD, HEAD, SignedHead("w1", 9, b"later"), SignedHead("w2", 7, b"other")):
        asyncio.run(drop.take(head))
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == {"w1-7.checkpoint": HEAD.note, "w1-9.checkpoint": b"later", "w2-7.checkpoint": b"other"}


def test_a_head_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    """Another head of the same size means a fork: it is refused, and the first one stays."""
    drop = FolderDrop("file:drop", tmp_path)
    asyncio.run(drop.take(HEAD))
    assert "forked or set back" in refused(drop, SignedHead("w1", 7, b"another"))
    assert (tmp_path / "w1-7.checkpoint").read_bytes() == HEAD.note


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A drop that is not mounted must not turn into a folder of this disk."""
    assert refused(FolderDrop("file:drop", tmp_path / "drop"), HEAD) == "No such file or directory"
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_hangs_is_waited_for_by_the_next(tmp_path: Path) -> None:
    """One write at a time: who gives up waiting leaves it running, and the next head is written once it is over."""

    async def test() -> None:
        fifo = tmp_path / "w1-7.checkpoint"
        os.mkfifo(fifo)
        drop = FolderDrop("file:drop", tmp_path)
        for head in (HEAD, SignedHead("w1", 8, b"next")):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await drop.take(head)
        assert not (tmp_path / "w1-8.checkpoint").exists()
        fifo.write_bytes(HEAD.note)  # lets the reader go on
        await drop.take(SignedHead("w1", 8, b"next"))
        assert (tmp_path / "w1-8.checkpoint").read_bytes() == b"next"

    asyncio.run(asyncio.wait_for(test(), 20))


def test_a_head_is_one_line_of_json() -> None:
    """What a collector of standard output gets has shard, size and the signed note, and ends with a newline."""
    reading, writing = os.pipe()
    drop = LineDrop("stdout", writing)
    asyncio.run(drop.take(HEAD))
    asyncio.run(drop.take(SignedHead("w1", 8, b"next")))
    os.close(writing)
    with os.fdopen(reading) as lines:
        told = [json.loads(line) for line in lines]
    assert told[0] == {"shard": "w1", "size": 7, "checkpoint": HEAD.note.decode()}
    assert [each["size"] for each in told] == [7, 8]


def test_a_pipe_that_nobody_reads_any_more_takes_nothing() -> None:
    """It is refused with the reason of the system, and ends nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    assert refused(LineDrop("stdout", writing), HEAD) == "Broken pipe"
    os.close(writing)


def test_the_systems_log_gets_a_datagram(tmp_path: Path) -> None:
    """As the C library sends it: priority, time, program; then the line. Without a log there, that is said."""
    device = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(device))
        log.settimeout(20)
        asyncio.run(SystemLog("syslog", device).take(HEAD))
        sent = log.recv(65536).decode("ascii")
    header = re.match(r"<109>[A-Z][a-z]{2} [ 1-3]\d \d\d:\d\d:\d\d toolgate\[\d+\]: ", sent)
    assert header is not None
    assert json.loads(sent[header.end() :]) == {"shard": "w1", "size": 7, "checkpoint": HEAD.note.decode()}
    device.unlink()
    assert refused(SystemLog("syslog", device), HEAD) == f"{device}: No such file or directory"
