"""What judging a pilot stage found: rows, checks, failures and the stage's verdict."""

from dataclasses import dataclass

from prefect_campaign.decide.compare import Baseline, SeedStats


@dataclass(frozen=True)
class Row:
    """One line of the results table."""

    stage: str
    exp_id: str
    check: str
    """Name of the check that judged it; empty for a baseline."""
    dimension: str
    dataset: str | None
    method: str | None
    configuration: str
    """The swept parameters without dataset and seed, for people."""
    value: float | None
    """The objective value, if it counts (done, comparable, finite)."""
    baseline: float | None
    delta: float | None
    """Improvement over the baseline in metric units; positive is better in either mode."""
    passed: bool | None
    """None for baselines, which are not judged."""


@dataclass(frozen=True)
class Failure:
    """An experiment without a result that counts, and why."""

    stage: str
    exp_id: str
    state: str
    cause: str
    """Signature of the diagnosis, else the state or what is wrong with the result."""
    reason: str


@dataclass(frozen=True)
class Cell:
    """One configuration on one dataset, over its seeds."""

    dataset: str | None
    exp_ids: tuple[str, ...]
    """The experiments whose results count."""
    stats: SeedStats
    baseline: Baseline
    delta: float | None
    cause: str
    """Why it does not pass; empty if it does."""

    @property
    def passed(self) -> bool:
        """Whether the configuration passes on this dataset."""
        return not self.cause


@dataclass(frozen=True)
class CheckVerdict:
    """Whether one dimension of the stage holds up."""

    stage: str
    name: str
    dimension: str
    core: bool
    """Whether the stage depends on it (see `stages.judge_stage`)."""
    mandatory: bool
    passed: bool
    cause: str
    """Why it did not pass, as a category that can be compared between checks; empty if it passed."""
    reason: str
    """One sentence with the numbers and the exp_ids."""
    configuration: str = ""
    """The best configuration, the one that was judged."""
    cells: tuple[Cell, ...] = ()
    """The best configuration, dataset by dataset."""
    delta: float | None = None
    """The best configuration's mean delta over datasets."""
    if_fails: str = ""


@dataclass(frozen=True)
class MetricMissing:
    """The objective's metric was reported by no run of the stage: most likely a misspelt name."""

    wanted: str
    seen: tuple[str, ...]
    """Names of the metrics that were reported."""
    close: tuple[str, ...]
    """Those that look like the wanted one."""

    @property
    def message(self) -> str:
        """What happened and what to do, in one line."""
        if not self.seen:
            return (
                f"objective.metric: no run reported {self.wanted!r}, nor any other metric; "
                "let the command write metrics.jsonl into {run_dir} or print key=value lines"
            )
        shown = ", ".join(self.seen[:20]) + (", ..." if len(self.seen) > 20 else "")
        hint = f"; did you mean {' or '.join(map(repr, self.close))}?" if self.close else ""
        return f"objective.metric: no run reported {self.wanted!r}; metrics seen: {shown}{hint}"


@dataclass(frozen=True)
class StageVerdict:
    """What one stage showed."""

    stage: str
    passed: bool
    reason: str
    checks: tuple[CheckVerdict, ...]
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    blocked: tuple[str, ...] = ()
    """Experiments on hold: nothing is decided before they are."""
    metric_missing: MetricMissing | None = None
    later: tuple[str, ...] = ()
    """Names of the pilot stages that come after this one."""
    best: Row | None = None
    """The best candidate: by delta, or by value where there is no baseline."""
