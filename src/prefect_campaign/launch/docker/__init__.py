"""Docker: one container an attempt, by the name of its token."""
