"""Slurm: arrays of jobs, one question a poll, and how its answers are read."""
