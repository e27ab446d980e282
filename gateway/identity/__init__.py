"""Who calls: keys and secrets. It never decides what a caller may do."""
