"""What the Docker SDK's errors mean for whoever asked: try again, never, or look first."""

import re
from typing import Any

from prefect_campaign.model.errors import CampaignError, Refused, Transient, Unknown
from prefect_campaign.model.text import printable

NO_ENGINE = "no Docker engine answers at {where} ({why}); start it (systemctl start docker), or see `docker info`"
NO_GPUS = (
    "this Docker engine cannot give GPUs to containers ({why}); install the NVIDIA Container Toolkit, run "
    "`nvidia-ctk runtime configure --runtime=docker` and start the engine again"
)

_NO_DEVICES = re.compile(r"could not select device driver|nvidia-container-cli|unknown or invalid runtime name: nvidia")
_NOTHING_SENT = re.compile(
    r"Connection refused|No such file or directory|Permission denied|Name or service not known", re.IGNORECASE
)
_NOT_THE_SPEC = re.compile(r"no space left|cannot allocate memory|resource temporarily unavailable|too many open files")
_THE_SPEC = re.compile(
    r"executable file not found|no such file or directory|not a directory|invalid mount|bind source path does not exist"
    r"|storage-opt|exec format error|permission denied|invalid|unable to find user",
    re.IGNORECASE,
)
_NO_NETWORK = re.compile(r"network .* not found")
_LONGEST = 300


class NotThere(Transient):
    """The engine answered that it has no such container or image."""


class Conflict(Transient):
    """The engine answered that this is impossible in the state that things are in, e.g. a name that is taken."""


def translated(error: Exception, where: str, doing: str, *, acting: bool) -> CampaignError:
    """What an error of the SDK means.

    Args:
        error: as it was raised.
        where: address of the engine.
        doing: what was asked for, for people: begins the message.
        acting: whether the request changes anything, so that a lost answer leaves it open whether that was done.
    """
    from docker.errors import APIError, NotFound
    from requests.exceptions import ConnectionError as Lost
    from requests.exceptions import Timeout

    said = explanation(error)
    if isinstance(error, NotFound) and not _NO_NETWORK.search(said):
        return NotThere(f"{doing}: {said}")
    if isinstance(error, APIError):
        return _answered(error, doing, said)
    if _NOTHING_SENT.search(str(error)):
        return Transient(NO_ENGINE.format(where=where, why=_short(error)))
    if isinstance(error, Lost | Timeout | OSError) and acting:
        return Unknown(f"{doing}: the Docker engine at {where} went away before it answered ({said}); look first")
    if isinstance(error, Timeout):
        return Transient(f"{doing}: the Docker engine at {where} does not answer ({said})")
    return Transient(NO_ENGINE.format(where=where, why=said))


def explanation(error: Exception) -> str:
    """The engine's own words, or else the error's, in one line."""
    said: Any = getattr(error, "explanation", None) or str(error)
    return printable(" ".join(str(said).split()))[:_LONGEST]


def _answered(error: Any, doing: str, said: str) -> CampaignError:
    code = error.response.status_code if error.response is not None else 500
    if _NO_DEVICES.search(said):
        return Refused(f"{doing}: {NO_GPUS.format(why=said)}")
    if code == 409:
        return Conflict(f"{doing}: {said}")
    if _NOT_THE_SPEC.search(said.lower()):
        return Transient(f"{doing}: {said}")
    if code < 500 or _THE_SPEC.search(said):
        return Refused(f"{doing}: the Docker engine refuses it: {said}")
    return Transient(f"{doing}: the Docker engine failed: {said}")


def _short(error: Exception) -> str:
    found = _NOTHING_SENT.search(str(error))
    return found.group(0) if found else explanation(error)
