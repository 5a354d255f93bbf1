"""One SSH host with its GPUs and who uses them, seen in one call."""

from dataclasses import replace

from prefect_campaign.launch.gpus.numbers import Numbers
from prefect_campaign.launch.gpus.nvidia_smi import read_nvidia_smi
from prefect_campaign.launch.gpus.nvml import Reading
from prefect_campaign.launch.gpus.visible import reserved_uuids, with_reserve_checked
from prefect_campaign.launch.ssh.connection import Connection
from prefect_campaign.launch.ssh.remote import unhex
from prefect_campaign.launch.ssh.remote_paths import ORIGIN, RemotePlace
from prefect_campaign.launch.ssh.remote_shell import LIBRARY
from prefect_campaign.model.clock import Clock
from prefect_campaign.model.devices import Gpu, GpuProcess, HostView
from prefect_campaign.model.errors import CampaignError, Transient

LOOK_SECONDS = 45.0
MOST_CLOCK_SECONDS = 300.0
"""A host whose clock differs by more would seem to hang, or never to: ages of its files are judged here."""

_SMI_SECONDS = 20

# A driver that hangs must not hang the look; where there is no `timeout`, the call's own limit ends it.
_LOOK = """\
pc_smi() {
    if command -v timeout >/dev/null 2>&1; then timeout -k 2 SECONDS nvidia-smi -q -x; else nvidia-smi -q -x; fi 2>&1
}
pc_owner() {
    pc_uid=
    while read -r pc_key pc_value _; do [ "$pc_key" = Uid: ] && pc_uid=$pc_value; done 2>/dev/null <"/proc/$1/status"
    [ -n "$pc_uid" ] || return
    id -un "$pc_uid" 2>/dev/null || echo "$pc_uid"
}
pc_variable() { tr '\\0' '\\n' 2>/dev/null <"/proc/$1/environ" | sed -n "s/^$2=//p" | head -n 1; }
pc_look() {
    echo "clock $(date +%s)"
    command -v nvidia-smi >/dev/null 2>&1 || { echo end; return; }
    pc_all=$(pc_smi; echo "code $?")
    printf 'smi '
    printf %s "$pc_all" | pc_hex
    echo
    pc_pids=$(printf '%s\\n' "$pc_all" | sed -n 's:.*<pid> *\\([0-9][0-9]*\\) *</pid>.*:\\1:p')
    for pc_pid in $(printf '%s\\n' "$pc_pids" | sort -u | head -n 500); do
        [ -d "/proc/$pc_pid" ] || continue
        pc_run=$(pc_variable "$pc_pid" ORIGIN_NAME 2>/dev/null)
        [ -n "$pc_run" ] || pc_run=$(pc_variable "$pc_pid" CAMPAIGN_RUN_DIR 2>/dev/null)
        pc_user=$(pc_owner "$pc_pid" 2>/dev/null)
        printf 'process %s x%s x%s\\n' "$pc_pid" "$(printf %s "$pc_user" | pc_hex)" "$(printf %s "$pc_run" | pc_hex)"
    done
    echo end
}
pc_look
""".replace("SECONDS", str(_SMI_SECONDS)).replace("ORIGIN_NAME", ORIGIN)


async def look_at(
    connection: Connection, place: RemotePlace, slots: int, clock: Clock, numbers: Numbers | None = None
) -> HostView:
    """The host as it is now; one that cannot be looked at has that as its problem."""
    host = connection.host
    asked_at = clock()
    try:
        answer = await connection.read(LIBRARY + _LOOK, seconds=LOOK_SECONDS)
        reading, their_clock = _read(answer)
    except CampaignError as error:
        return unseen(connection, slots, clock, error)
    seen_at = clock()
    gpus = (numbers or Numbers()).on(host.name, reading.gpus, whole=not reading.problem)
    gpus = with_reserve_checked(gpus, frozenset(host.reserve), host.keep_free, host.name)
    off = max(asked_at - their_clock - 1, their_clock - seen_at - 1, 0)
    problem = ""
    if off > MOST_CLOCK_SECONDS:
        problem = f"its clock is {off:.0f} s off, so that the age of its files says nothing; set it (chrony, ntp)"
    return HostView(
        host.name,
        slots,
        gpus,
        problem=problem,
        gpu_problem=reading.problem,
        factor=host.factor,
        launcher="ssh",
        driver=reading.driver,
        cuda=reading.cuda,
        reserve=frozenset(host.reserve) | reserved_uuids(frozenset(host.reserve), host.name, gpus),
        keep_free=host.keep_free,
        seen_at=seen_at,
        cores=host.slots is None,
    )


def unseen(connection: Connection, slots: int, clock: Clock, error: Exception) -> HostView:
    """A host that cannot be looked at."""
    host = connection.host
    return HostView(
        host.name,
        slots,
        problem=str(error),
        factor=host.factor,
        launcher="ssh",
        reserve=frozenset(host.reserve),
        keep_free=host.keep_free,
        seen_at=clock(),
        cores=host.slots is None,
    )


def _read(answer: str) -> tuple[Reading, float]:
    """GPUs and the host's clock.

    Raises:
        Transient: the answer is not whole.
    """
    lines = [line.split() for line in answer.splitlines() if line.strip()]
    if ["end"] not in lines:
        raise Transient("the answer about GPUs is not whole")
    clock, reading = 0.0, Reading()
    who: dict[int, tuple[str, str]] = {}
    for words in lines:
        try:
            if words[0] == "clock":
                clock = float(words[1])
            elif words[0] == "smi":
                said, _, code = unhex(words[1]).rpartition("code ")
                reading = read_nvidia_smi(said, int(code))
            elif words[0] == "process":
                who[int(words[1])] = unhex(words[2][1:]).strip(), unhex(words[3][1:])
        except (ValueError, IndexError) as error:
            raise Transient(f"the answer about GPUs cannot be understood: {' '.join(words)[:100]!r}") from error
    return replace(reading, gpus=tuple(_owned(gpu, who) for gpu in reading.gpus)), clock


def _owned(gpu: Gpu, who: dict[int, tuple[str, str]]) -> Gpu:
    def owned(process: GpuProcess) -> GpuProcess:
        user, run_dir = who.get(process.pid, ("", ""))
        return replace(process, user=user or "?", run_dir=run_dir or None)

    return replace(gpu, processes=tuple(map(owned, gpu.processes)))
