"""What review rules may look at in a plan: how much, how often, against what, at which cost."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

from prefect_campaign.judge.expressions import Language, Value
from prefect_campaign.judge.facts import PLAIN_FUNCTIONS
from prefect_campaign.model.plan import FULL, Plan
from prefect_campaign.model.spec import Campaign

_BASELINE, _ABLATION = "baseline", "ablation"


@dataclass(frozen=True)
class PlanFacts:
    """A campaign's full phase as reviewers see it. Every field is a name in review rules."""

    question: str
    objective: str
    experiments: int
    """Of the full phase."""
    pilot_experiments: int
    configurations: int
    """Of the full phase, seeds apart."""
    min_seeds: int
    """Seeds of the configuration that has the fewest."""
    max_seeds: int
    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    pilot_datasets: tuple[str, ...]
    unpiloted_datasets: tuple[str, ...]
    """In the full phase, in no pilot stage."""
    groups: tuple[str, ...]
    """Groups that have experiments in the full phase."""
    has_baseline: bool
    """A group called baseline is run, or a reported value is given."""
    has_ablation: bool
    groups_without_purpose: tuple[str, ...]
    checks_without_meaning: tuple[str, ...]
    """Checks of pilot stages that do not say what their failure means."""
    hours: float
    """Estimated device hours of the full phase; nan when nothing is known."""
    budget_hours: float | None
    git_commit: str | None
    git_dirty: bool

    def names(self) -> dict[str, Value]:
        """All facts by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


PLAN = Language(names={f.name for f in fields(PlanFacts)}, functions=PLAIN_FUNCTIONS)
"""The language of review rules."""


def plan_facts(
    campaign: Campaign,
    plan: Plan,
    estimated_hours: float,
    budget_hours: float | None,
    git_commit: str | None,
    git_dirty: bool,
) -> PlanFacts:
    """Collect what the review looks at.

    Args:
        campaign: the spec.
        plan: its plan.
        estimated_hours: device hours that the full phase is expected to take; nan when unknown.
        budget_hours: device hours that may be spent; None without a limit.
        git_commit: of the code that will run; None outside version control.
        git_dirty: whether that code has local changes.
    """
    full = [e for e in plan.experiments if e.phase == FULL]
    pilot = [e for e in plan.experiments if e.phase != FULL]
    seeds = Counter((e.group, e.method, e.dataset, tuple(sorted(e.params.items()))) for e in full)
    groups = _unique(e.group for e in full)
    datasets, piloted = _unique(e.dataset for e in full), _unique(e.dataset for e in pilot)
    return PlanFacts(
        question=campaign.question.strip(),
        objective=campaign.objective.metric,
        experiments=len(full),
        pilot_experiments=len(pilot),
        configurations=len(seeds),
        min_seeds=min(seeds.values(), default=0),
        max_seeds=max(seeds.values(), default=0),
        methods=_unique(e.method for e in full),
        datasets=datasets,
        pilot_datasets=piloted,
        unpiloted_datasets=tuple(d for d in datasets if d not in piloted),
        groups=groups,
        has_baseline=_BASELINE in groups or campaign.objective.baseline is not None,
        has_ablation=_ABLATION in groups,
        groups_without_purpose=tuple(n for n, g in campaign.groups.items() if not g.purpose.strip()),
        checks_without_meaning=tuple(
            f"{stage.name}/{check.name}"
            for stage in campaign.pilot
            for check in stage.checks
            if not check.if_fails.strip()
        ),
        hours=estimated_hours,
        budget_hours=budget_hours,
        git_commit=git_commit,
        git_dirty=git_dirty,
    )


def _unique(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(v for v in values if v is not None))
