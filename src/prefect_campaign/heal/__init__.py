"""Self-healing of one attempt: why it failed, and what to change for the next try."""
