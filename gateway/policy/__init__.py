"""Policy: rules in YAML with CEL conditions, compiled into a bundle that decides in process (the PDP).

It never does I/O: files come in as bytes, decisions go out as values. Start at `bundle.py`, then `evaluate.py`.
"""

from gateway.policy.bundle import PolicyBundle, load_bundle

__all__ = ["PolicyBundle", "load_bundle"]
