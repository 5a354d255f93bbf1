"""Judging a run, drawing its charts and tracking it, as a Prefect task."""

from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE

from prefect_campaign.engine.setting import Setting
from prefect_campaign.engine.worker import Worker
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.tasks.publish import artifact_key


@task(name="analyse", task_run_name="analyse {exp_id}", cache_policy=NO_CACHE, persist_result=False)
async def analyse(exp_id: str, setting: Setting, worker: Worker) -> list[str]:
    """Have an experiment that is over judged, drawn and tracked, and show the outcome as an artifact.

    Args:
        exp_id: the experiment.
        setting: the campaign.
        worker: the process that does it.

    Returns:
        Paths of the analysis files.
    """
    reply = await worker.ask({"exp_id": exp_id, "over": True})
    if reply.get("problem"):
        get_run_logger().warning("%s: %s", exp_id, reply["problem"])
    view = setting.view(exp_id)
    files = [str(p) for p in view.monitoring.get("artifacts", [])]
    if files:
        await acreate_markdown_artifact(
            key=artifact_key(setting.campaign.name, exp_id, "analysis"),
            markdown=_markdown(view, files),
            description=f"Analysis of {exp_id}",
        )
    return files


def _markdown(view: ExperimentView, files: list[str]) -> str:
    told = view.monitoring
    lines = [f"### {view.exp_id}", told.get("note", ""), told.get("summary", ""), f"Tags: {', '.join(told['tags'])}"]
    lines.append("\n".join(f"- `{Path(f).name}` in `{Path(f).parent}`" for f in files))
    if view.tracking_url:
        lines.append(f"W&B: `{view.tracking_url}`")
    return "\n\n".join(line for line in lines if line)
