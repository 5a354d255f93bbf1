"""Which GPUs are reserved, also after others have vanished and their numbers have moved."""

from collections.abc import Sequence

from prefect_campaign.model.devices import HostView
from prefect_campaign.placement.room import is_reserved


class Reserved:
    """The GPUs that reserve entries meant when these were seen first.

    An index means another GPU once one before it is gone; a person wanted to keep the one that it meant before.

    Args:
        entries: of a campaign, as `Rules.reserve` has them; None: each host's own.
    """

    def __init__(self, entries: frozenset[str] | None = None) -> None:
        self._entries = entries
        self._met: set[str] = set()
        self._kept: dict[tuple[str, str], bool] = {}

    def look(self, hosts: Sequence[HostView]) -> None:
        """Take in what is seen now."""
        for view in hosts:
            entries = view.reserve if self._entries is None else self._entries
            for gpu in view.gpus:
                met = {entry for entry in entries if is_reserved(gpu, view, {entry})}
                self._met |= met
                self._kept.setdefault((view.host, gpu.uuid), bool(met))

    def on(self, host: str) -> frozenset[str]:
        """UUIDs of those of one host."""
        return frozenset(uuid for (name, uuid), kept in self._kept.items() if kept and name == host)

    @property
    def entries(self) -> frozenset[str]:
        """The same of all hosts, as entries that never mean another GPU."""
        return frozenset(f"{host}:{uuid}" for (host, uuid), kept in self._kept.items() if kept)

    @property
    def never_met(self) -> frozenset[str]:
        """Entries of the campaign that have meant no GPU so far."""
        return (self._entries or frozenset()) - self._met
