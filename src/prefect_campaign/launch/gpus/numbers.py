"""By which number people mean a GPU: the one that it had when it was first seen, whatever has vanished since.

Why: docs/decisions/0006-gpus.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from prefect_campaign.launch.gpus.nvml import AFTER_LOSS, UNREADABLE
from prefect_campaign.model.devices import Card, Gpu

Keep = Callable[[str, Callable[[Sequence[Card]], Sequence[Card]]], Sequence[Card]]
"""Changes what is on record of a host's cards by a function of it, and returns the outcome."""


class Numbers:
    """The numbers of the GPUs of all hosts that one process looks at.

    Args:
        keep: keeps them beyond the end of this process; by default nothing does.
    """

    def __init__(self, keep: Keep | None = None) -> None:
        self._keep = keep
        self._known: dict[str, Sequence[Card]] = {}

    def on(self, host: str, gpus: Sequence[Gpu], *, whole: bool) -> tuple[Gpu, ...]:
        """The same GPUs with their numbers; then those that are missing, with that as their problem.

        Args:
            host: whose they are.
            gpus: as they are read now.
            whole: whether that is all there is; if not, one that is missing may be there.
        """
        whole = whole and not any(gpu.uuid.startswith(UNREADABLE) for gpu in gpus)
        known = self._known.get(host, ())
        if host not in self._known or numbered(known, gpus, whole=whole) != known:
            self._known[host] = known = self._agreed(host, gpus, whole=whole)
        numbers = {card.uuid: card.number for card in known}
        here = {gpu.uuid for gpu in gpus}
        missing = [card for card in known if card.uuid not in here]
        if not whole:  # one that cannot be read may be any of them; those that a cut list leaves out are still there
            unread = {gpu.index for gpu in gpus}
            missing = [card for card in missing if gpus and card.number not in unread]
        return (
            *(replace(gpu, number=numbers.get(gpu.uuid)) for gpu in gpus),
            *(_missing(card, gone=whole) for card in missing),
        )

    def _agreed(self, host: str, gpus: Sequence[Gpu], *, whole: bool) -> Sequence[Card]:
        if self._keep is None:
            return numbered(self._known.get(host, ()), gpus, whole=whole)
        return self._keep(host, lambda known: numbered(known, gpus, whole=whole))


@runtime_checkable
class Numbered(Protocol):
    """A launcher whose machines have GPUs that are named by numbers."""

    def number_by(self, numbers: Numbers) -> None:
        """From now on numbers mean what these say."""
        ...


class WithNumbers:
    """Of a launcher that looks at GPUs itself."""

    _numbers: Numbers

    def number_by(self, numbers: Numbers) -> None:
        """From now on numbers of GPUs mean what these say."""
        self._numbers = numbers


def numbered(known: Sequence[Card], gpus: Sequence[Gpu], *, whole: bool) -> list[Card]:
    """The cards of a host, by number, after a look at it.

    A card keeps its number. A new one gets its place as its number if no other card there has it, else that of one
    that is gone, whose place it takes; only if there is none, the next number.

    Args:
        known: from before.
        gpus: as they are now.
        whole: whether those of `known` that are not among them are gone.
    """
    here = {gpu.uuid for gpu in gpus}
    cards = {card.number: card for card in known}
    old = {card.uuid for card in known}
    for gpu in sorted(gpus, key=lambda gpu: gpu.index):
        if gpu.uuid in old or gpu.uuid.startswith(UNREADABLE):
            continue
        free = sorted(n for n, card in cards.items() if card.uuid not in here) if whole else []
        number = gpu.index
        if number in cards and number not in free:
            number = free[0] if free else max(cards) + 1
        cards[number] = Card(gpu.uuid, number, gpu.name, gpu.total_mb)
    return [cards[number] for number in sorted(cards)]


def _missing(card: Card, *, gone: bool) -> Gpu:
    for_good = f"if it was taken out for good: campaign gpus --forget {card.uuid}"
    problem = f"has vanished; {AFTER_LOSS}; {for_good}" if gone else "cannot be seen now"
    return Gpu(card.uuid, card.number, card.name, card.total_mb, problem=problem, number=card.number, missing=True)
