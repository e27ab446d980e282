"""Patterns of names: `*` in a word, `*.` before a host. Pure text; it knows no regular expression and no path."""

from __future__ import annotations


def matches(pattern: str, word: str) -> bool:
    """`*` stands for any run of characters, everything else for itself. Linear in the word for each `*`."""
    if "*" not in pattern:
        return pattern == word
    head, *middle, tail = pattern.split("*")
    if len(word) < len(head) + len(tail) or not word.startswith(head) or not word.endswith(tail):
        return False
    at, end = len(head), len(word) - len(tail)
    for piece in middle:
        at = word.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def host_fits(pattern: str, host: str) -> bool:
    """Is a canonical host the pattern, or under it (by one label or more) when it begins with `*.`?"""
    pattern = pattern.lower()
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
