"""Watching: new log text, new metric rows, health of a batch, and when to look again."""
