"""Any other queue, by the command templates of its block."""
