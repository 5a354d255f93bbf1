"""A campaign at its gate."""

from unit.gate_lab import serve, setting

__all__ = ["serve", "setting"]
