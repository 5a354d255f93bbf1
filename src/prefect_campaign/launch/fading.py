"""What is remembered of jobs only for as long as somebody asks for them."""

from typing import Generic, TypeVar

from prefect_campaign.model.clock import Clock, steady_clock

KEPT_SECONDS = 7200.0
"""Longer than any pause between two looks at a job."""

T = TypeVar("T")


class Fading(Generic[T]):
    """A dictionary whose entries vanish some time after they were last asked for or set.

    Args:
        steady: seconds of a clock that does not jump.
    """

    def __init__(self, steady: Clock = steady_clock) -> None:
        self._steady = steady
        self._kept: dict[str, tuple[T, float]] = {}
        self._swept_at = steady()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def get(self, key: str) -> T | None:
        """What is remembered, and is for some time from now on; None if nothing is."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept[key] = found[0], self._steady()
        return found[0]

    def set(self, key: str, value: T) -> T:
        """Remember this."""
        self._kept[key] = value, self._steady()
        return value

    def pop(self, key: str) -> None:
        """Forget this."""
        self._kept.pop(key, None)

    def sweep(self) -> None:
        """Forget what nobody has asked for lately."""
        now = self._steady()
        if now - self._swept_at >= KEPT_SECONDS / 4:
            self._swept_at = now
            self._kept = {key: one for key, one in self._kept.items() if now - one[1] < KEPT_SECONDS}
