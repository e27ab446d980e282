"""Recorded calls decided again under other policies: `verdict`, `recorded`, `world`, `replay`, `report`, `run`.

From the ledger alone: it makes no call and never changes what it reads.
"""
