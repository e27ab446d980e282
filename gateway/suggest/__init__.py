"""Least-privilege permits from the calls on record: `seen`, `clauses`, `values`, `permits`, `draft`, `written`, `run`.

From the ledger alone: it makes no call, changes no policy, and puts nothing in force; what it writes is to be reviewed.
"""
