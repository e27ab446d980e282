"""Toolgate: every tool call of an agent is checked, sandboxed, screened and recorded. Holds only the version."""

__version__ = "0.1.0"
