"""Toolgate: every tool call of an agent is checked, sandboxed, screened and on record. Holds the version, runs nothing."""

__version__ = "0.1.0"
