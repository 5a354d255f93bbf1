"""PBS: its job script, and how qstat is read."""
