"""What a killed round leaves behind: why it failed, what shows it, and what the next idea must respect."""

from collections.abc import Sequence
from pathlib import Path

from prefect_campaign.decide.verdicts import StageVerdict
from prefect_campaign.ledger.gates import Question
from prefect_campaign.model.spec import Campaign
from prefect_campaign.results.text import markdown


def write_rollback(
    folder: Path, campaign: Campaign, verdicts: Sequence[StageVerdict], answer: Question, why: str = ""
) -> Path:
    """Write ``failure_summary.md``: decision, root cause, evidence, hard constraints, lessons.

    Args:
        folder: the results folder; made if needed.
        campaign: the spec.
        verdicts: of the pilot stages that ran.
        answer: the decision that ended the round.
        why: a rule that ended it, where it was not the person alone.
    """
    failed = [c for v in verdicts for c in v.checks if not c.passed]
    broken = [f for v in verdicts for f in v.failures]
    said = why or answer.reason or "no reason given"
    lines = [
        f"# Failure summary: {campaign.name}",
        "",
        f"{answer.answer} by {markdown(answer.by or 'unknown')}, plan `{answer.plan_hash}`: {markdown(said)}",
        "",
        "## Root cause",
        *([f"- {c.name} ({c.dimension}): {markdown(c.reason)}" for c in failed] or ["- No check failed; see the decision."]),
        "",
        "## Evidence",
        *([f"- `{f.exp_id}`: {f.cause}: {markdown(f.reason)}" for f in broken] or ["- All runs ended with a result."]),
        *[f"- `{r.exp_id}`: {r.value} against baseline {r.baseline}" for v in verdicts for r in v.rows if r.passed is False],
        "",
        "## Hard constraints for the next idea",
        *([f"- {markdown(c.if_fails)}" for c in failed if c.if_fails] or ["- None were written into the spec (`if_fails`)."]),
        "",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "failure_summary.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
