"""The GPUs in what ``nvidia-smi -q -x`` prints (pure); for hosts on which nothing of ours is installed."""

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from prefect_campaign.launch.gpus.nvml import Reading
from prefect_campaign.model.devices import Gpu, GpuProcess

_LARGEST = 16 << 20
_TIMED_OUT = (124, 137)
"""How `timeout` ends if the program does not, or only by KILL."""
_NUMBER = re.compile(r"(\d{1,12})(?:\.\d+)?(?: ?(?:MiB|%|C|W))?", re.ASCII)


def read_nvidia_smi(said: str, code: int = 0) -> Reading:
    """The GPUs, as far as they were told.

    A value that cannot be read (``N/A``, ``[Unknown Error]``, ``ERR!``) is unknown; a GPU without an identity or
    without readable memory has that as its problem. Output that ends in the middle keeps the GPUs before that.

    Args:
        said: stdout and stderr; text around the XML is ignored but for a problem's reason.
        code: exit code of the program.
    """
    start = said.find("<nvidia_smi_log")
    if start < 0:
        reason = _line(said)
        if code == 6 or re.search(r"No devices were found", said):
            return Reading()
        if code in _TIMED_OUT and not reason:
            why = "does not answer; look at it and at dmesg there, a reboot may be needed"
            return Reading(problem=f"GPUs cannot be read: nvidia-smi {why} ({code})")
        return Reading(problem=f"GPUs cannot be read: nvidia-smi says {reason or 'nothing'!r} ({code})")
    xml = said[start:_LARGEST]
    # Only a document type can bring entities with it, and it stands before the root element, where we begin.
    if "<!ENTITY" in xml or "<!DOCTYPE" in xml:
        return Reading(problem="GPUs cannot be read: nvidia-smi's XML has declarations in it that do not belong there")
    gpus, driver, cuda, whole = _parsed(xml)
    lost = ""
    if not whole:
        lost = f"what nvidia-smi says ends in the middle, after {len(gpus)} GPUs"
    elif code:
        around = said[:start] + said.rpartition("</nvidia_smi_log>")[2]
        why = _line(re.sub(r"^<.*", "", around, flags=re.MULTILINE)) or "does not say why"
        lost = f"nvidia-smi ended with code {code}: {why}"
    if lost and not gpus:
        return Reading((), driver, cuda, f"GPUs cannot be read: {lost}")
    if lost:
        gpus.append(Gpu(f"unreadable-{len(gpus)}", len(gpus), problem=lost))
    return Reading(tuple(gpus), driver, cuda)


def _parsed(xml: str) -> tuple[list[Gpu], str, str, bool]:
    """GPUs, versions, and whether the end of the document was seen."""
    parser: XMLPullParser[Element] = XMLPullParser(("end",))
    gpus: list[Gpu] = []
    versions = {"driver_version": "", "cuda_version": ""}
    whole = False
    try:
        for at in range(0, len(xml), 1 << 16):
            parser.feed(xml[at : at + (1 << 16)])
            for element in _ended(parser):
                if element.tag == "gpu":
                    gpus.append(_gpu(element, len(gpus)))
                    element.clear()
                elif element.tag in versions and element.text:
                    versions[element.tag] = _known(element.text)
                elif element.tag == "nvidia_smi_log":
                    whole = True
    except ParseError:
        pass  # cut off, or chatter after it: what was whole by then counts
    return gpus, versions["driver_version"], versions["cuda_version"], whole


def _ended(parser: "XMLPullParser[Element]") -> Iterator[Element]:
    for event in parser.read_events():
        if isinstance(event[-1], Element):
            yield event[-1]


def _gpu(found: Element, index: int) -> Gpu:
    uuid = _text(found, "uuid")
    total, free, used = (_number(found, f"fb_memory_usage/{name}") for name in ("total", "free", "used"))
    mig = _text(found, "mig_mode/current_mig") == "Enabled"
    ecc = _uncorrected(found)
    problems = []
    if not uuid.startswith("GPU-"):
        problems.append(f"has no UUID ({_raw(found, 'uuid')!r}): look for Xid in dmesg; reboot the host")
    if mig:
        problems.append(f"MIG is on: instances are not placed on; to use it whole: nvidia-smi -i {index} -mig 0")
    elif total is None or (free is None and used is None):
        problems.append(f"memory cannot be read ({_raw(found, 'fb_memory_usage/total')!r})")
    elif (free or 0) > total:
        problems.append(f"tells nonsense of its memory ({free} of {total} MiB free)")
    if ecc:
        problems.append(
            f"{ecc} uncorrected memory errors since the driver was loaded: reset it with "
            f"nvidia-smi -i {index} --gpu-reset, replace it if they come back"
        )
    if _text(found, "compute_mode") == "Prohibited":
        problems.append(f"compute mode is Prohibited; nvidia-smi -i {index} -c DEFAULT allows computing")
    if found.find("processes") is None or (_raw(found, "processes") not in ("", "N/A") and not mig):
        problems.append(f"process list cannot be read ({_raw(found, 'processes')!r})")
    taken = 0
    if total is not None:
        # By what is free, for what the driver keeps for itself is in neither.
        taken = total - free if free is not None else (used or 0) + (_number(found, "fb_memory_usage/reserved") or 0)
    return Gpu(
        uuid if uuid.startswith("GPU-") else f"unreadable-{index}",
        index,
        name=_text(found, "product_name") or "?",
        total_mb=total or 0,
        used_mb=max(0, taken),
        utilisation=_number(found, "utilization/gpu_util"),
        temperature=_number(found, "temperature/gpu_temp"),
        ecc_errors=ecc,
        mig=mig,
        processes=tuple(_processes(found)),
        problem="; ".join(problems),
    )


def _processes(found: Element) -> Iterator[GpuProcess]:
    for one in found.iterfind("processes/process_info"):
        pid = _number(one, "pid")
        if pid is None:
            continue
        name = _text(one, "process_name").split(" ")[0].rpartition("/")[2]
        yield GpuProcess(
            pid,
            _number(one, "used_memory"),
            command=name or "?",
            graphics=_text(one, "type") == "G",
        )


def _uncorrected(found: Element) -> int | None:
    """Uncorrected errors since the driver was loaded, under the names that the driver's versions have for them."""
    told = found.iterfind("ecc_errors/volatile//*")
    counts = [_as_number(one.text) for one in told if "uncorrectable" in one.tag and len(one) == 0]
    if not counts:
        counts.append(_number(found, "ecc_errors/volatile/double_bit/total"))
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _number(found: Element, path: str) -> int | None:
    return _as_number(found.findtext(path))


def _as_number(text: str | None) -> int | None:
    match = _NUMBER.fullmatch((text or "").strip())
    return int(match[1]) if match else None


def _text(found: Element, path: str) -> str:
    return _known(found.findtext(path) or "")


def _raw(found: Element, path: str) -> str:
    return _line(found.findtext(path) or "")[:60]


def _known(text: str) -> str:
    text = _line(text)
    return (
        "" if text.strip("[]") in ("N/A", "Unknown Error", "Insufficient Permissions", "ERR!", "GPU is lost") else text
    )


def _line(text: str) -> str:
    """Its first line with something in it, without anything that a terminal would obey."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return "".join(c if c.isprintable() else " " for c in first)[:200]
