"""How many jobs a queue is handed at once, after it said that it takes no more: so many as it had then."""

from prefect_campaign.model.clock import Clock, steady_clock

PAUSE_SECONDS = 300.0
"""So long nothing more is tried; then one more, then three, then seven, as long as the queue takes them."""
LONGEST_SECONDS = 1800.0
RECALLED_SECONDS = 4 * LONGEST_SECONDS
"""A process that comes later goes by the refusals of so long."""


class QueueRoom:
    """The room in one queue. Each try in vain is an attempt on record, so that there should be few.

    Args:
        steady: seconds of a clock that does not jump.
    """

    def __init__(self, steady: Clock = steady_clock) -> None:
        self._steady = steady
        self._jobs: int | None = None
        self._since = 0.0
        self._pause = 0.0

    def full(self, jobs: int, ago: float = 0.0) -> None:
        """The queue took no more.

        Args:
            jobs: how many it had of this home, whatever campaign they are of.
            ago: so many seconds ago.
        """
        in_vain = self._jobs is not None and jobs <= self._jobs
        self._pause = min(2 * self._pause, LONGEST_SECONDS) if in_vain else PAUSE_SECONDS
        self._jobs, self._since = jobs, self._steady() - ago

    def of(self, slots: int) -> int:
        """How many of its slots may be used now."""
        if self._jobs is None:
            return slots
        pauses = min(20, int((self._steady() - self._since) // self._pause))
        most = self._jobs + (1 << pauses) - 1
        if most >= slots:
            self._jobs = None
        return min(most, slots)
