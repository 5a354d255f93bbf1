"""Foreign text on one line."""


def printable(text: str) -> str:
    """Text from outside, such as the name of another user's program, without anything that acts on a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
