"""What a killed round leaves behind: why it failed, what shows it, and what the next idea must respect."""

from collections.abc import Sequence
from pathlib import Path

from prefect_campaign.decide.verdicts import StageVerdict
from prefect_campaign.ledger.gates import Question
from prefect_campaign.model.spec import Campaign
from prefect_campaign.results.files import write_text
from prefect_campaign.results.text import markdown, number


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
    short = [r for v in verdicts for r in v.rows if r.passed is False]
    causes = [f"{c.name} ({c.dimension}): {markdown(c.reason)}" for c in failed]
    evidence = [f"`{f.exp_id}`: {f.cause}: {markdown(f.reason)}" for f in broken]
    evidence += [f"`{r.exp_id}`: {number(r.value)} against baseline {number(r.baseline)}" for r in short]
    constraints = [markdown(c.if_fails) for c in failed if c.if_fails]
    said = markdown(why or answer.reason or "no reason given")
    lines = [
        f"# Failure summary: {campaign.name}",
        "",
        f"{answer.answer} by {markdown(answer.by or 'unknown')}, plan `{answer.plan_hash}`: {said}",
        *_section("Root cause", causes, "No check failed; see the decision."),
        *_section("Evidence", evidence, "All runs ended with a result that passed."),
        *_section("Hard constraints for the next idea", constraints, "None were written into the spec (`if_fails`)."),
    ]
    return write_text(folder / "failure_summary.md", "\n".join(lines) + "\n")


def _section(title: str, points: list[str], otherwise: str) -> list[str]:
    return ["", f"## {title}", "", *(f"- {p}" for p in points or [otherwise])]
