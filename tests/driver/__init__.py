"""A fake NVIDIA driver: a small NVML library, so that the real binding runs, and its GPUs as a test sets them.

    def test_something(driver):
        driver.set(gpus(2))                            # two idle GPUs of 24 GB, UUIDs GPU-00000000-... in order
        driver.run(driver.uuids[0], pid=os.getpid(), used_mb=8000)
        ...                                            # LocalLauncher().look(), `campaign gpus`, ...
        driver.vanish(driver.uuids[1])

The fixture sets ``LD_LIBRARY_PATH`` and ``FAKE_NVML`` in ``os.environ``, so that every process that is started
afterwards meets this driver instead of the machine's own; `Driver.env` holds the two for an environment of its own.
Product code in this process meets it as well, as the driver is always asked by a worker process. Several "hosts" on
one machine: one `Driver` each, made by the fixture `new_driver`, and its `env` for the host's processes.

All changes are seen by the next call into the library, by whatever process. A process may take memory by itself, by
appending a line to the file that ``FAKE_NVML`` names (`nvml.c`, ``job``); it has it until it is dead.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

DRIVER_NOT_LOADED, NO_PERMISSION, GPU_IS_LOST, RESET_REQUIRED, MISMATCH, UNKNOWN = 9, 4, 15, 16, 18, 999
NOT_SUPPORTED = 3
HANG, CRASH = "hang", "crash"


@dataclass(frozen=True)
class FakeProcess:
    """A process on a GPU; `kind` is C (computes), G (draws) or M (computes through MPS)."""

    pid: int
    used_mb: int | None
    kind: str = "C"


@dataclass(frozen=True)
class FakeGpu:
    """A GPU as the driver shall tell it. None is "not supported"; memory in MiB."""

    uuid: str
    name: str = "NVIDIA RTX 6000"
    total_mb: int | None = 24576
    used_mb: int | None = None
    """By default what its processes have."""
    utilisation: int | None = 0
    temperature: int | None = 40
    ecc: int | None = 0
    mig: int | None = None
    mode: int = 0
    processes: tuple[FakeProcess, ...] = ()
    faults: dict[str, int | str] = field(default_factory=dict)
    """NVML function without its ``_v2`` (or ``*``: all) to error code, HANG or CRASH."""


def uuid_of(n: int) -> str:
    """UUID of the n-th GPU of `gpus`."""
    return f"GPU-{n:08x}-0000-4000-8000-{n:012x}"


def gpus(count: int, **changes: object) -> list[FakeGpu]:
    """So many equal GPUs."""
    return [FakeGpu(uuid_of(n), **changes) for n in range(count)]  # type: ignore[arg-type]


class Driver:
    """A fake driver with its own GPUs.

    Args:
        library: the folder with the compiled ``libnvidia-ml.so.1``.
        state: the file that holds the GPUs.
    """

    def __init__(self, library: Path, state: Path) -> None:
        self.env = {"LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(state)}
        self._state = state
        self._gpus: list[FakeGpu] = []
        self._faults: dict[str, int | str] = {}
        self.set([])

    @property
    def uuids(self) -> list[str]:
        """Of the GPUs that are there now, in PCI order."""
        return [gpu.uuid for gpu in self._gpus]

    def set(self, gpus: Sequence[FakeGpu]) -> None:
        """These are the GPUs from now on."""
        self._gpus = list(gpus)
        self._write()

    def change(self, uuid: str, **changes: object) -> None:
        """Change fields of one GPU, e.g. ``temperature=91`` or ``faults={"*": GPU_IS_LOST}``."""
        assert uuid in self.uuids
        self.set([replace(gpu, **changes) if gpu.uuid == uuid else gpu for gpu in self._gpus])  # type: ignore[arg-type]

    def run(self, uuid: str, pid: int, used_mb: int | None, kind: str = "C") -> None:
        """A process takes memory on a GPU."""
        (gpu,) = (gpu for gpu in self._gpus if gpu.uuid == uuid)
        others = tuple(p for p in gpu.processes if (p.pid, p.kind) != (pid, kind))
        self.change(uuid, processes=(*others, FakeProcess(pid, used_mb, kind)))

    def stop(self, pid: int) -> None:
        """A process gives back all it has, on every GPU."""
        self.set([replace(g, processes=tuple(p for p in g.processes if p.pid != pid)) for g in self._gpus])

    def vanish(self, uuid: str) -> None:
        """A GPU is gone, as after a reboot without it; the numbers of later ones move up."""
        assert uuid in self.uuids
        self.set([gpu for gpu in self._gpus if gpu.uuid != uuid])

    def lose(self, uuid: str) -> None:
        """A GPU falls off the bus: it is still counted, and answers nothing but that it is lost."""
        self.change(uuid, faults={"*": GPU_IS_LOST})

    def fail(self, code: int | str, function: str = "*") -> None:
        """The library itself fails: DRIVER_NOT_LOADED, MISMATCH, NO_PERMISSION, HANG, CRASH."""
        self._faults[function] = code
        self._write()

    def hang(self, uuid: str | None = None) -> None:
        """No call returns, or none on one GPU, until `heal`."""
        if uuid is None:
            self.fail(HANG)
        else:
            self.change(uuid, faults={"*": HANG})

    def heal(self) -> None:
        """No faults any more; calls that hang go on."""
        self._faults.clear()
        self.set([replace(gpu, faults={}) for gpu in self._gpus])

    def _write(self) -> None:
        lines: list[tuple[object, ...]] = [("driver", "550.54.15"), ("cuda", 12040)]
        lines += [("fault", "-", function, code) for function, code in self._faults.items()]
        for gpu in self._gpus:
            used = sum(p.used_mb or 0 for p in gpu.processes) if gpu.used_mb is None else gpu.used_mb
            told = (gpu.total_mb, used, gpu.utilisation, gpu.temperature, gpu.ecc, gpu.mig, gpu.mode)
            lines.append(("gpu", gpu.uuid, gpu.name, *(-1 if value is None else value for value in told)))
            lines += [("proc", gpu.uuid, p.pid, -1 if p.used_mb is None else p.used_mb, p.kind) for p in gpu.processes]
            lines += [("fault", gpu.uuid, function, code) for function, code in gpu.faults.items()]
        new = self._state.with_name(f"{self._state.name}.new")
        new.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
        os.replace(new, self._state)
