"""The GPUs of this machine as NVML reports them, through NVIDIA's own binding.

Run as a program it is the worker of `prefect_campaign.launch.gpus.inventory`: one line in, one reading as JSON out. A
broken driver can hang or crash whoever calls it, so nobody calls `read_gpus` in the process that runs a campaign.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from queue import Empty, Queue
from typing import Any

from prefect_campaign.launch.gpus.users import gpu_process
from prefect_campaign.model.devices import Gpu, GpuProcess
from prefect_campaign.model.text import printable

LIBRARY = "libnvidia-ml.so.1"
DRIVER_DEVICE = "/dev/nvidiactl"
"""There if the kernel's driver is, and if a container was given it."""

IDLE_SECONDS, OLDEST_SECONDS, TROUBLED_SECONDS = 30.0, 300.0, 30.0
"""A worker that nobody asks, or an old one, ends: it holds the driver open, and a new one sees new GPUs. One that met
trouble ends sooner, as a repaired driver may need a new process; but not each time, as a start takes 0.2 s."""

UNREADABLE = "unreadable-"
"""Begins the name, in place of a UUID, of a GPU that does not even tell that."""

AFTER_LOSS = "look for Xid in dmesg; reboot the host to get it back"

_MIB = 2**20
_UNTOLD = ("NotSupported", "FunctionNotFound", "NoData", "VgpuEccNotSupported")
"""Answers to a query that mean "this model does not tell", not "this GPU is broken"."""


@dataclass(frozen=True)
class Reading:
    """All GPUs of one machine at one moment."""

    gpus: tuple[Gpu, ...] = ()
    """In NVML's order, which is that of the PCI bus and of ``nvidia-smi``."""
    driver: str = ""
    cuda: str = ""
    problem: str = ""
    """Why no GPU could be read, and what to do; empty on a machine that simply has none."""


def read_gpus() -> Reading:
    """Ask NVML for everything. NVML stays initialised in this process. May hang if the driver does.

    No driver library at all is no problem: such a machine has no GPUs. Whatever fails on one GPU is a problem of
    that GPU alone.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Reading(problem=_start_problem(pynvml, error))
    try:
        driver, cuda = _text(pynvml.nvmlSystemGetDriverVersion), _cuda_version(pynvml)
        return Reading(tuple(_all(pynvml)), driver, cuda)
    except pynvml.NVMLError as error:
        return Reading(problem=_start_problem(pynvml, error))


def serve() -> None:
    """Answer each line of stdin with a reading on stdout; ends with stdin, when idle, when old, and soon after trouble.

    The next worker starts afresh, with the driver library that is installed by then.
    """
    # What the driver library may print must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    questions: Queue[None] = Queue()
    threading.Thread(target=_listen, args=(questions,), daemon=True).start()
    began = time.monotonic()
    lasts = OLDEST_SECONDS
    while time.monotonic() - began < lasts:
        try:
            questions.get(timeout=IDLE_SECONDS)
        except Empty:
            return
        reading = read_gpus()
        answers.write(json.dumps(asdict(reading)) + "\n")
        answers.flush()
        if reading == Reading():
            return  # no driver: nothing to keep open
        if reading.problem or any(gpu.problem for gpu in reading.gpus):
            lasts = TROUBLED_SECONDS


def _listen(questions: Queue[None]) -> None:
    """Pass on each question; when nobody is left to ask, end, also in the middle of a call that hangs."""
    while os.read(0, 4096):
        questions.put(None)
    os._exit(0)


def _all(nvml: Any) -> Iterator[Gpu]:
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _as_text(nvml.nvmlDeviceGetUUID(handle))
        except Exception as error:  # whatever the binding makes of a dying GPU, the others are read
            yield Gpu(f"{UNREADABLE}{index}", index, problem=_gpu_problem(nvml, error, index, "it"))
        else:
            yield _gpu(nvml, handle, index, uuid)


def _gpu(nvml: Any, handle: Any, index: int, uuid: str) -> Gpu:
    """Each query on its own; the first that shows the GPU to be gone ends them, as each may take seconds."""
    found: dict[str, Any] = {}
    problems: list[str] = []
    gone = False

    @contextmanager
    def asking(what: str, *, must: bool = False) -> Iterator[None]:
        nonlocal gone
        try:
            yield
        except Exception as error:  # the binding raises more than NVMLError: ctypes, decoding, its own
            if must or _kind(error) not in _UNTOLD:
                problems.append(_gpu_problem(nvml, error, index, what))
            gone = gone or _kind(error) in ("GpuIsLost", "GpuNotFound", "NotFound", "ResetRequired")

    def ask(name: str, what: str, query: Callable[[], Any], *, must: bool = False) -> None:
        if not gone:
            with asking(what, must=must):
                found[name] = query()

    ask("mig", "MIG mode", lambda: nvml.nvmlDeviceGetMigMode(handle)[0] == 1)
    ask("name", "name", lambda: _as_text(nvml.nvmlDeviceGetName(handle)))
    mig = found.get("mig", False)
    if mig:
        # Its memory and processes belong to its instances and often cannot be asked for.
        problems.append(f"MIG is on: instances are not placed on; to use it whole: nvidia-smi -i {index} -mig 0")
    ask("memory", "memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle), must=not mig)
    ask("utilisation", "utilisation", lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
    ask(
        "temperature",
        "temperature",
        lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
    )
    ask("ecc_errors", "memory errors", lambda: _uncorrected(nvml, handle))
    ask("mode", "compute mode", lambda: nvml.nvmlDeviceGetComputeMode(handle))
    for kind in ("Compute", "MPSCompute", "Graphics"):
        ask(kind, "process list", lambda k=kind: _running(nvml, handle, k), must=kind == "Compute" and not mig)  # type: ignore[misc]
    if found.get("ecc_errors"):
        problems.append(
            f"{found['ecc_errors']} uncorrected memory errors since the driver was loaded: reset it with "
            f"nvidia-smi -i {index} --gpu-reset, replace it if they come back"
        )
    if found.get("mode") == nvml.NVML_COMPUTEMODE_PROHIBITED:
        problems.append(f"compute mode is Prohibited; nvidia-smi -i {index} -c DEFAULT allows computing")
    memory = found.get("memory")
    if memory and not 0 <= memory.free <= memory.total:
        problems.append(f"tells nonsense of its memory ({memory.free} of {memory.total} bytes free)")
        memory = None
    return Gpu(
        uuid,
        index,
        name=found.get("name", "?"),
        total_mb=memory.total // _MIB if memory else 0,
        # Rounded up: what is free is never said to be more than it is.
        used_mb=-(-(memory.total - memory.free) // _MIB) if memory else 0,
        utilisation=found.get("utilisation"),
        temperature=found.get("temperature"),
        ecc_errors=found.get("ecc_errors"),
        mig=mig,
        processes=_processes(found),
        problem="; ".join(dict.fromkeys(problems)),
    )


def _uncorrected(nvml: Any, handle: Any) -> int:
    return int(
        nvml.nvmlDeviceGetTotalEccErrors(handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
    )


def _running(nvml: Any, handle: Any, kind: str) -> list[tuple[int, int | None]]:
    """(pid, MiB or None) of the processes of one kind; drivers before 510 have only the second version."""
    try:
        found = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses_v3")(handle)
    except nvml.NVMLError as error:
        if _kind(error) != "FunctionNotFound":
            raise
        found = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses_v2")(handle)
    return [(p.pid, None if p.usedGpuMemory is None else -(-p.usedGpuMemory // _MIB)) for p in found]


def _processes(found: dict[str, Any]) -> tuple[GpuProcess, ...]:
    """A process that computes and draws is in both lists, with the same memory."""
    merged: dict[int, tuple[int | None, bool]] = {}
    for kind in ("Graphics", "Compute", "MPSCompute"):
        for pid, used in found.get(kind, ()):
            known = merged.get(pid, (None, True))[0]
            merged[pid] = (used if known is None or used is None else max(known, used), kind == "Graphics")
    return tuple(gpu_process(pid, used, graphics=drawing) for pid, (used, drawing) in sorted(merged.items()))


def _start_problem(nvml: Any, error: Exception) -> str:
    """What keeps the whole of NVML from working; empty if there simply is no driver."""
    kind = _kind(error)
    if kind == "LibraryNotFound":
        return _library_problem()
    what = {
        "DriverNotLoaded": "the NVIDIA driver is not loaded; load it (modprobe nvidia), and if that fails install "
        "the driver for the running kernel again and reboot",
        "LibRmVersionMismatch": "the NVIDIA driver and its library differ in version, as after an update; reboot, "
        "or unload and load the nvidia kernel modules",
        "NoPermission": f"no permission to use the NVIDIA driver; give this user access to {DRIVER_DEVICE} "
        "(ls -l /dev/nvidia*; often the group video)",
        "FunctionNotFound": "the NVIDIA driver library is too old; install a driver of version 450 or later",
    }.get(kind, f"NVML answers {_said(error)!r}; look at `nvidia-smi` and `dmesg`")
    return f"GPUs cannot be read: {what}"


def _library_problem() -> str:
    import ctypes

    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        if str(error).startswith(f"{LIBRARY}: cannot open shared object file: No such file"):
            if not os.path.exists(DRIVER_DEVICE):
                return ""
            return (
                f"GPUs cannot be read: the NVIDIA driver is here ({DRIVER_DEVICE}), its library {LIBRARY} is not; "
                "install it, or in a container allow it (NVIDIA_DRIVER_CAPABILITIES=compute,utility)"
            )
        return f"GPUs cannot be read: the NVIDIA driver library cannot be loaded ({error}); install the driver again"
    return f"GPUs cannot be read: the NVIDIA driver library {LIBRARY} came just now; look again"


def _gpu_problem(nvml: Any, error: Exception, index: int, what: str) -> str:
    return {
        "GpuIsLost": f"is lost (fell off the bus); {AFTER_LOSS}",
        "GpuNotFound": f"is no longer there; {AFTER_LOSS}",
        "ResetRequired": f"needs a reset: nvidia-smi -i {index} --gpu-reset",
        "NoPermission": f"no permission to read {what}: give this user access to /dev/nvidia{index}",
    }.get(_kind(error), f"{what} cannot be read: {_said(error)}")


def _kind(error: Exception) -> str:
    """``GpuIsLost`` for ``NVMLError_GpuIsLost``; the binding makes these classes when it is imported."""
    return type(error).__name__.removeprefix("NVMLError_")


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _cuda_version(nvml: Any) -> str:
    try:
        version = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
    except nvml.NVMLError:
        return ""
    return f"{version // 1000}.{version % 1000 // 10}"


def _text(query: Callable[[], Any]) -> str:
    try:
        return _as_text(query())
    except Exception as error:
        if _kind(error) in ("DriverNotLoaded", "LibRmVersionMismatch", "Uninitialized"):
            raise
        return ""


def _as_text(value: str | bytes) -> str:
    return printable(value.decode("utf-8", "replace") if isinstance(value, bytes) else value)


if __name__ == "__main__":
    serve()
