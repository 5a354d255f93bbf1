"""Judgement by skills: rules over metrics, logs and plans, decisions, charts, and the design review."""
