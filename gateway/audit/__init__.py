"""The ledger: what was asked, decided and done, append-only, signed, and readable by who may read it."""
