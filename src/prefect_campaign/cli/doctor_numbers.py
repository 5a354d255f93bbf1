"""What `campaign doctor` says of numbers of GPUs that mean other cards than they seem to."""

from collections.abc import Sequence

from prefect_campaign.cli.findings import WARN, Finding
from prefect_campaign.model.devices import Gpu, HostView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.text import printable

Named = Sequence[tuple[str, str]]
"""Field of a spec or a block, and an entry in it that may mean a GPU by its number."""


def named_by(campaign: Campaign | None, launcher: str) -> Named:
    """What a spec says of the GPUs of one of its machines."""
    if campaign is None or launcher not in campaign.launcher:
        return ()
    wanted = campaign.policy.gpus
    reserve = [("policy.gpus.reserve", str(entry)) for entry in wanted.reserve]
    return reserve + [("policy.gpus.avoid", entry) for entry in wanted.avoid if ":" in entry]


def moved(group: str, view: HostView, named: Named) -> list[Finding]:
    """Numbers that mean the card that had them first, where the driver counts in another way today."""
    block = [("reserve", entry) for entry in sorted(view.reserve)]
    found = []
    for where, entry in (*block, *named):
        number = entry.strip().removeprefix(f"{view.host}:")
        if not number.isdecimal():
            continue
        meant = next((gpu for gpu in view.gpus if gpu.number == int(number)), None)
        today = next((gpu for gpu in view.gpus if gpu.index == int(number) and not gpu.missing), None)
        if meant is None or meant is today or (meant.missing and today is None):
            continue  # it is plain what is meant; what is wrong with that card is told where it is shown
        calls = "that has vanished" if meant.missing else f"the driver calls it {meant.index} now"
        other = f", and {_card(today)} {number}" if today else ""
        text = f"{where}: {number} means {_card(meant)}, as when it was first seen; {calls}{other}"
        anew = ", ".join(gpu.uuid for gpu in view.gpus if gpu.missing or gpu.number not in (None, gpu.index))
        do = f"write the UUID instead; to have numbers counted anew: `campaign gpus --forget` each of {anew}"
        found.append(Finding(group, WARN, text, do))
    return found


def _card(gpu: Gpu) -> str:
    return f"{gpu.uuid} ({printable(gpu.name).removeprefix('NVIDIA ')})"
