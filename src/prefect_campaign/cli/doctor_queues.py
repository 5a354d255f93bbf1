"""What `campaign doctor` says of queues: do their commands answer, and is what they say understood."""

from typing import Any

from prefect_campaign.cli.findings import BAD, GOOD, NOTE, WARN, Finding, of_error
from prefect_campaign.launch.command.scheduler import CommandScheduler
from prefect_campaign.launch.pbs.inspect import inspect_pbs
from prefect_campaign.model.errors import CampaignError
from prefect_campaign.model.text import printable


async def pbs(group: str, data: dict[str, Any]) -> list[Finding]:
    """A PBS server and the queue of a block."""
    from prefect_campaign.blocks.pbs import PbsCluster

    block = PbsCluster.model_validate(data)
    folder = f"{block.bin_folder.rstrip('/')}/" if block.bin_folder else ""
    try:
        facts = await inspect_pbs(block.where().run, folder, block.queue)
    except CampaignError as error:
        return [of_error(group, "", error, otherwise="see that `qstat -B` works there")]
    version = f" {printable(facts.version)}" if facts.version else ""
    found = [Finding(group, GOOD, f"PBS{version} answers{_at(block.ssh)}; up to {block.max_jobs} jobs at once")]
    if facts.queue_missing:
        found.append(Finding(group, BAD, printable(facts.queue_problem), "correct `queue` of the block"))
    elif facts.queue_problem:
        found.append(Finding(group, WARN, printable(facts.queue_problem), "ask who looks after it; jobs will wait"))
    if facts.history is False:
        text = "PBS forgets jobs when they end: of one that leaves no record nobody can say why it died"
        found.append(Finding(group, NOTE, text, "ask its administrator for job_history_enable"))
    return found


async def command(group: str, data: dict[str, Any]) -> list[Finding]:
    """A queue that a block describes by its commands."""
    from prefect_campaign.blocks.command import CommandQueue

    block = CommandQueue.model_validate(data)
    settings = block.settings()
    scheduler = CommandScheduler(block.name, settings, block.where().run)
    try:
        answer = await scheduler.listed()
    except CampaignError as error:
        return [of_error(group, "", error, otherwise=f"see that `{' '.join(block.status)}` works there")]
    found = []
    if answer is None:
        found.append(Finding(group, NOTE, "its status can be asked for single jobs only, so that nothing was asked"))
    else:
        rows, said = answer
        text = f"{block.status[0]} answers{_at(block.ssh)}, {len(rows)} jobs listed; up to {block.max_jobs} at once"
        found.append(Finding(group, GOOD, text))
        strange = sorted(
            {printable(row.word) for row in rows if row.entry is not None and row.entry.status == "unclear"}
        )
        if strange:
            text = f"`states` does not explain {', '.join(strange)[:200]}"
            found.append(Finding(group, WARN, text, "add what it means to `states` of the block"))
        if not rows and len(said.out.splitlines()) > 2:
            text = f"job_pattern finds no job in the {len(said.out.splitlines())} lines of its list"
            found.append(Finding(group, NOTE, text, "if there are jobs, correct `job_pattern`"))
    if not settings.shows_names and not settings.find:
        text = "it shows no names: a job whose id was lost on the way is not found again"
        found.append(Finding(group, WARN, text, "add (?P<name>...) to `job_pattern`, or a `find` command"))
    elif not settings.shows_marks:
        text = "a job whose id was lost cannot be told from one of the same name in another campaign home"
        found.append(Finding(group, NOTE, text, "give jobs {mark} in `submit`, and add (?P<mark>...) to `job_pattern`"))
    if not settings.whole_pattern:
        text = "nothing tells whether its list is whole: half a list may be believed, and an empty one never is"
        found.append(Finding(group, WARN, text, "add what every whole list has in it as `whole_pattern`"))
    return found


def _at(ssh: Any) -> str:
    return f" on host {ssh.name}" if ssh is not None else ""
