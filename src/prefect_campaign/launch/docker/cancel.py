"""Ending a container's job: TERM for all its processes, a grace, KILL; believed only when seen."""

import logging
import time
from pathlib import Path

from prefect_campaign.launch.docker.engine import DockerEngine, is_alive
from prefect_campaign.launch.script import CLAIM_NAME
from prefect_campaign.model.errors import CampaignError, Transient

_AGAIN_SECONDS = 1.0
"""A TERM that came before `job.sh` could hear it is sent again."""
_RECORD_SECONDS = 10.0
"""How long `job.sh` has for its record once all else is killed."""
_GONE_SECONDS = 20.0

log = logging.getLogger("prefect_campaign")

# Runs inside. Spared are the container's first process, which hands every signal on, this one, and job.sh, which
# records the end ($2); at the first TERM also job.sh's children, to which it hands it on itself.
_SIGNAL = """\
for pc_dir in /proc/[0-9]*; do
    pc_pid=${pc_dir#/proc/}
    case $pc_pid in 1 | "$$" | "$2") continue ;; esac
    if [ "$1" = TERM ]; then
        read -r pc_line <"$pc_dir/stat" || continue
        pc_line=${pc_line##*) ?}
        pc_line=${pc_line# }
        [ -n "$2" ] && [ "${pc_line%% *}" = "$2" ] && continue
    fi
    kill -"$1" "$pc_pid"
done 2>/dev/null
"""


def end_container(engine: DockerEngine, token: str, run_dir: str, container: str, grace_seconds: float) -> None:
    """End all processes of a container, such that `job.sh` can still record how.

    Raises:
        Transient: it still lives, or the engine is not there.
    """
    deadline = time.monotonic() + grace_seconds
    seen = engine.inspect(container)
    if seen is None or not is_alive(seen["State"]):
        return
    _signal(engine, container, "TERM", _leader(run_dir))
    engine.kill(container, "SIGTERM")
    while (left := deadline - time.monotonic()) > 0:
        if engine.wait(container, min(_AGAIN_SECONDS, left)):
            return
        if not (Path(run_dir) / CLAIM_NAME / "stop").exists():
            engine.kill(container, "SIGTERM")
    if _signal(engine, container, "KILL", _leader(run_dir)) and engine.wait(container, _RECORD_SECONDS):
        return
    engine.kill(container, "SIGKILL")
    if not engine.wait(container, _GONE_SECONDS):
        raise Transient(
            f"{token}: its container {container[:12]} cannot be ended; see `docker inspect` and the kernel log"
        )


def _signal(engine: DockerEngine, container: str, name: str, leader: str) -> bool:
    """Signal all but `job.sh`; not possible in a container that is paused, or at its limit of processes or memory."""
    try:
        engine.run_inside(container, ["/bin/sh", "-c", _SIGNAL, "sh", name, leader])
    except CampaignError as error:
        log.debug("%s: its processes cannot be signalled one by one: %s", container[:12], error)
        return False
    return True


def _leader(run_dir: str) -> str:
    """Number of `job.sh` inside, as it wrote into its claim; empty if it is not that far."""
    try:
        text = (Path(run_dir) / CLAIM_NAME / "pid").read_text("ascii", "replace").strip()
    except OSError:
        return ""
    return text if text.isdecimal() and len(text) < 10 else ""
