"""Places to run code nobody vouches for. Knows no policy, no principal and no HTTP; start at `sandboxes.pool`."""
