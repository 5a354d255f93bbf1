"""What `campaign doctor` looks at on a Slurm cluster: does it answer, which version, is the partition there."""

from typing import Any

from prefect_campaign.cli.findings import BAD, GOOD, NOTE, WARN, Finding
from prefect_campaign.launch.slurm.programs import LocalPrograms, Programs, RemotePrograms, asked
from prefect_campaign.launch.slurm.refusals import told
from prefect_campaign.launch.slurm.settings import SlurmSettings
from prefect_campaign.launch.slurm.text import read_config
from prefect_campaign.launch.ssh.connection import Connection
from prefect_campaign.model.text import printable


async def slurm(group: str, data: dict[str, Any]) -> list[Finding]:
    """One cluster that a block describes.

    Raises:
        CampaignError: the block can never work, or Slurm's programs cannot be run.
    """
    from prefect_campaign.blocks.slurm import SlurmCluster

    block = SlurmCluster.model_validate(data)
    settings = block.settings()
    if block.ssh is None:
        programs: Programs = LocalPrograms(settings.programs, settings.conf)
        where = "here"
    else:
        programs = RemotePrograms(Connection(block.ssh.host()), settings.programs, settings.conf)
        where = f"through {block.ssh.name}"
    config = await asked(programs, ["scontrol", "show", "config"])
    if config.code != 0:
        do = "see that slurmctld is up, and that `conf` of the block is the cluster's slurm.conf"
        return [Finding(group, BAD, f"does not answer {where}: {told(config.err) or 'it said nothing'}", do)]
    known = read_config(config.out)
    text = f"answers {where} as {await programs.user()}: Slurm {known.get('SLURM_VERSION', '?')}, cluster "
    text += f"{known.get('ClusterName', '?')}, arrays of up to {known.get('MaxArraySize', '?')}"
    found = [Finding(group, GOOD, printable(text))]
    return [*found, *await _partition(group, settings, programs), *_accounts(group, known)]


async def _partition(group: str, settings: SlurmSettings, programs: Programs) -> list[Finding]:
    said = await asked(programs, ["sinfo", "--noheader", "--format=%R"])
    there = sorted({line.strip() for line in said.out.splitlines() if line.strip()})
    missing = [name for name in settings.partition.split(",") if name and name not in there]
    if said.code != 0 or not missing:
        return []
    text = f"has no partition {', '.join(missing)}; there are: {printable(', '.join(there))[:200]}"
    return [Finding(group, BAD, text, "correct `partition` of the block")]


def _accounts(group: str, known: dict[str, str]) -> list[Finding]:
    found = []
    if known.get("AccountingStorageType", "").endswith("none"):
        text = "keeps no accounts: how a job ended is known only as long as squeue shows it"
        found.append(Finding(group, NOTE, text))
    if known.get("ProctrackType", "") in ("proctrack/linuxproc", "proctrack/pgid"):
        text = f"follows processes by {known['ProctrackType']}: what leaves its parent may outlive a cancelled job"
        found.append(Finding(group, WARN, text, "ask for proctrack/cgroup"))
    return found
