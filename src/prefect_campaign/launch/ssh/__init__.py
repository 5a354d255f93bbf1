"""Hosts behind SSH: what is copied there, what runs there, and how its answers are read."""
