"""The long proofs: hostile code in every sandbox, and what is left behind. Never part of the service."""
