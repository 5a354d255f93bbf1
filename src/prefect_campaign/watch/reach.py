"""When a job's host counts as away: silence proves nothing, but an experiment must not look alive for ever (pure)."""

from dataclasses import dataclass, replace

IN_A_ROW = 3
IN_ALL = 6
SHARE = 0.2
"""Of all polls; counted from `ENOUGH_POLLS` on, for a share of few says little."""
ENOUGH_POLLS = 10


@dataclass(frozen=True)
class Reach:
    """How often a job was looked at, and how often its host did not answer."""

    polls: int = 0
    missed: int = 0
    missed_in_a_row: int = 0

    def after(self, answered: bool) -> "Reach":
        """The count with one more poll."""
        if answered:
            return replace(self, polls=self.polls + 1, missed_in_a_row=0)
        return Reach(self.polls + 1, self.missed + 1, self.missed_in_a_row + 1)

    @property
    def away(self) -> bool:
        """Whether the host did not answer too often, and does not answer now."""
        if not self.missed_in_a_row:
            return False
        often = self.polls >= ENOUGH_POLLS and self.missed > SHARE * self.polls
        return self.missed_in_a_row >= IN_A_ROW or self.missed >= IN_ALL or often
