"""The guests: programs that run inside a sandbox, and how they are built. Never runs a guest."""
