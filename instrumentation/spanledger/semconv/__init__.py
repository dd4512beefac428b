"""Names: span attributes, usage meters, and which provider answers at a host."""
