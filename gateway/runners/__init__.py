"""Runners do the work of a call: sandboxes, HTTP endpoints, MCP servers. They know nothing of policy or of who asks."""
