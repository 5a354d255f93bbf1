"""How much memory other people's processes have shown at their peak: what they took once they will take again."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from prefect_campaign.model.devices import HostView

_Key = tuple[str, str, int]


class Peaks:
    """Remembers the peak of each process that is not an attempt of ours, while it lives."""

    def __init__(self) -> None:
        self._peaks: dict[_Key, tuple[str, str, int]] = {}

    def seen(self, hosts: Sequence[HostView]) -> Mapping[tuple[str, str], int]:
        """Take in what is seen now.

        A host or GPU that cannot be read, or is not among `hosts`, says nothing about its processes: their peaks stay.

        Returns:
            (host, UUID of a GPU) -> MiB that its foreign processes have used at their peaks beyond what they use now;
            GPUs without any are left out.
        """
        extra: defaultdict[tuple[str, str], int] = defaultdict(int)
        read: set[tuple[str, str]] = set()
        alive: set[_Key] = set()
        for view in hosts:
            for gpu in view.gpus:
                if view.problem or view.gpu_problem or gpu.problem:
                    continue
                read.add((view.host, gpu.uuid))
                for process in gpu.processes:
                    if process.run_dir is not None:
                        continue
                    key = (view.host, gpu.uuid, process.pid)
                    who = (process.user, process.command)
                    alive.add(key)
                    *before, peak = self._peaks.get(key, (*who, 0))
                    if tuple(before) != who:
                        peak = 0  # the number went to another process
                    used = process.used_mb
                    self._peaks[key] = (*who, peak if used is None else max(peak, used))
                    if used is not None and peak > used:
                        extra[view.host, gpu.uuid] += peak - used
        for key in [k for k in self._peaks if k[:2] in read and k not in alive]:
            del self._peaks[key]
        return dict(extra)
