"""Checks a proof file offline: `python verify_proof.py PROOF [--key FILE]`, as `toolgate audit prove` wrote it.

For somebody who has neither the log nor the gateway: this file, `notes.py` beside it, and Python. It checks that each
record stands in a tree of records whose head the gateway signed (RFC 9162 §2.1.3.2), and for a file of
`toolgate audit diff --json` that one signed tree is the beginning of the other (§2.1.4.2). It opens no content.
Exit: 0 all of it stands, 1 something does not, 2 unreadable.
"""

from __future__ import annotations

import argparse
import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

try:
    from gateway.audit.notes import Key, head_of
except ImportError:
    from notes import Key, head_of  # type: ignore[import-not-found, no-redef]  # run alone, both files in one folder


@dataclass(frozen=True)
class Finding:
    """What is said of one record, or of two heads; `reason` is why it does not stand."""

    what: str
    reason: str | None = None

    def __str__(self) -> str:
        text = f"ok {self.what}" if self.reason is None else f"FAIL {self.what} reason={self.reason}"
        return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)  # others wrote it


def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `leaf` (its hash) is number `index`, from 0, in the tree of `size` leaves with `root`. RFC 9162
    §2.1.3.2."""
    if not 0 <= index < size:
        return False
    here, last, found = index, size - 1, leaf
    for node in path:
        if last == 0:
            return False
        if here & 1 or here == last:
            found = _node(node, found)
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            found = _node(found, node)
        here, last = here >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the tree of `old` leaves is the beginning of that of `new` leaves. RFC 9162 §2.1.4.2, and the two cases
    it leaves out: a tree is the beginning of itself, and the empty one of every tree, with an empty path."""
    if not 0 < old < new:
        empty = old != 0 or old_root == sha256().digest()
        return 0 <= old <= new and not path and empty and (old != new or old_root == new_root)
    nodes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not nodes:
        return False
    here, last = old - 1, new - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    before = after = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if here & 1 or here == last:
            before, after = _node(node, before), _node(node, after)
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            after = _node(after, node)
        here, last = here >> 1, last >> 1
    return last == 0 and (before, after) == (old_root, new_root)


def check(document: object, key_text: str | None = None) -> list[Finding]:
    """Checks everything in a proof file, with the key in it or the one given. Raises `ValueError`: it is none."""
    said = _object(document)
    if said.get("v") != 1:
        raise ValueError("not a proof of version 1")
    notes = said.get("rotations", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise ValueError("rotations is not a list of notes")
    key = Key(_text(said, "key") if key_text is None else key_text, notes)
    if "records" not in said:
        return [_consistent(said, key)]
    entries = said["records"]
    if not isinstance(entries, list) or not entries:
        raise ValueError("no records in it")
    return [_included(_object(entry), key) for entry in entries]


def _included(entry: Mapping[str, object], key: Key) -> Finding:
    shard, seq, line, note = _text(entry, "shard"), entry.get("seq"), _text(entry, "line"), _text(entry, "checkpoint")
    if type(seq) is not int:
        raise ValueError("seq is not a number")
    what, octets, head = f"shard={shard} seq={seq}", line.encode(), head_of(note)
    if not key.signed(note, shard):
        return Finding(what, f"its checkpoint is not one of this shard that {key.name} signed with this key")
    if not octets.startswith(b'{"v":1,"shard":%b,"seq":%d,' % (json.dumps(shard).encode(), seq)):
        return Finding(what, "the line is another record's")
    leaf = sha256(b"\x00" + octets).digest()
    if not verify_inclusion(seq, head.size, leaf, _hashes(entry, "inclusion"), head.root):
        return Finding(what, "the line does not stand in the tree that was signed")
    record = _object(json.loads(line))
    if "blob" in entry and _object(record.get("content")).get("blob") != _hash_of(entry, "blob"):
        return Finding(what, "its blob is not the one that the line names")
    named = [f"{name}={record[name]}" for name in ("type", "ts", "call_id") if name in record]
    return Finding(" ".join([what, f"size={head.size}", *named]))


def _consistent(said: Mapping[str, object], key: Key) -> Finding:
    shard, notes = _text(said, "shard"), said.get("checkpoints")
    if not isinstance(notes, list) or len(notes) != 2 or not all(isinstance(note, str) for note in notes):
        raise ValueError("neither records nor two checkpoints in it")
    old, new = map(head_of, notes)
    what = f"shard={shard} from={old.size} to={new.size}"
    if not all(key.signed(note, shard) for note in notes):
        return Finding(what, f"a checkpoint is not one of this shard that {key.name} signed with this key")
    if not verify_consistency(old.size, new.size, old.root, new.root, _hashes(said, "consistency")):
        return Finding(what, "the smaller tree is not the beginning of the other")
    return Finding(what)


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _text(entry: Mapping[str, object], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text")
    return value


def _hash_of(entry: Mapping[str, object], name: str) -> str:
    return sha256(b64decode(_text(entry, name), validate=True)).hexdigest()


def _hashes(entry: Mapping[str, object], name: str) -> list[bytes]:
    values = entry.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} is not a list of hashes")
    hashes = [b64decode(value, validate=True) for value in values]
    exact = [b64encode(octets).decode() for octets in hashes] == values  # a decoder ignores the last bits
    if not exact or any(len(octets) != 32 for octets in hashes):
        raise ValueError(f"{name} has something in it that is not a hash")
    return hashes


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="verify_proof.py", description="Checks a proof about a Toolgate ledger.")
    parser.add_argument("proof", type=Path, help="what `toolgate audit prove -o FILE` wrote")
    parser.add_argument("--key", type=Path, help="the gateway's public key from elsewhere, instead of the one in it")
    options = parser.parse_args(arguments)
    try:
        key = options.key.read_text(encoding="ascii") if options.key else None
        findings = check(json.loads(options.proof.read_text(encoding="utf-8")), key)
    except (OSError, ValueError, RecursionError) as error:
        sys.stderr.write(f"unreadable: {error}\n")
        return 2
    sys.stdout.write("".join(f"{finding}\n" for finding in findings))
    if key is None:
        sys.stderr.write("checked with the key in the file: compare it with the gateway's, or pass that with --key\n")
    return 0 if all(finding.reason is None for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
