"""Launchers: who runs attempts, behind one small protocol."""
