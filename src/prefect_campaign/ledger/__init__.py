"""The database of record: what is planned, what was tried, and who decided what."""
