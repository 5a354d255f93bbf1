"""How long a campaign's experiments are expected to take: the user's number, else what earlier ones took."""

from collections.abc import Mapping
from typing import Any

from prefect_campaign.decide.durations import Durations, Work
from prefect_campaign.decide.estimate import SAFETY, wall_minutes
from prefect_campaign.engine.hosts import Hosts
from prefect_campaign.engine.memory import same_command
from prefect_campaign.ledger import durations
from prefect_campaign.ledger.experiments import Outcome
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.records import AttemptSpec, ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import AttemptState


class Times:
    """Learns durations from the attempts of all rounds of a campaign, for GPUs that are booked and wall times asked.

    What an experiment took is summed over its attempts, for a later one may have gone on from a checkpoint.

    Args:
        campaign: the spec.
        hosts: how fast they are.
    """

    def __init__(self, campaign: Campaign, hosts: Hosts) -> None:
        self._campaign = campaign
        self._hosts = hosts
        self._said = campaign.resources.expected_seconds
        self._learns = (campaign.resources.gpus > 0 or hosts.queues) and self._said is None
        self._known = Durations()
        self._spent: dict[str, float] = {}
        """exp_id -> seconds that its attempts have taken so far, on the reference host."""

    def load(self, reader: Reader, campaign_id: int) -> None:
        """Read what earlier attempts took, those of the round `campaign_id` and of the others."""
        if not self._learns:
            return
        self._known, self._spent = Durations(), {}
        spent: dict[tuple[int, str], float] = {}
        for row in durations.attempts_of_campaign(reader, self._campaign.name):
            which = (row["campaign_id"], row["exp_id"])
            spent[which] = spent.get(which, 0.0) + self._on_reference(row["host"], row["seconds"])
            spec = row["spec"]
            mine = row["campaign_id"] == campaign_id
            # What a fix changed is told from another command only where that is known to be today's.
            if spec and (mine if spec["changes"] else same_command(self._campaign, spec)):
                work = Work(row["stage"], row["method"], row["dataset"], spec["params"], spec["changes"])
                self._known.add(work, spent[which])
        self._spent = {exp_id: seconds for (of, exp_id), seconds in spent.items() if of == campaign_id}

    def ended(self, view: ExperimentView, spec: AttemptSpec, outcome: Outcome) -> None:
        """An attempt is over."""
        if not self._learns or outcome.started_at is None or outcome.attempt_state == AttemptState.LOST:
            return  # a lost one ended when somebody looked
        seconds = self._on_reference(spec.host, outcome.ended_at - outcome.started_at)
        self._spent[spec.exp_id] = seconds = self._spent.get(spec.exp_id, 0.0) + seconds
        if outcome.attempt_state == AttemptState.DONE:
            self._known.add(Work(view.stage, view.method, view.dataset, spec.params, spec.changes), seconds)

    def expected(self, view: ExperimentView, healed: Mapping[str, Any] | None) -> float | None:
        """Seconds on the reference host that the next attempt is expected to take; None if nobody knows.

        Args:
            view: the experiment.
            healed: the attempt as a fix changed it, if one did.
        """
        if not self._learns:
            return self._said
        params, changes = (healed["params"], healed["changes"]) if healed else (view.params, ())
        return self._known.expected(Work(view.stage, view.method, view.dataset, params, changes))

    def _on_reference(self, host: str | None, seconds: float) -> float:
        return seconds / self._hosts.factor(host)


def wall_asked(campaign: Campaign, spec: AttemptSpec, seconds: float | None, factor: float) -> int:
    """Minutes that a scheduler is asked for; after a time limit that was too short never less than the fix says.

    Args:
        campaign: the spec.
        spec: the attempt, perhaps as a fix changed it.
        seconds: expected on the reference host; None if nobody knows.
        factor: how long it takes there / on the reference host.
    """
    expected = campaign.resources.expected_seconds
    if expected is None and seconds is not None:
        expected = SAFETY * seconds * factor
    return max(wall_minutes(spec.time_minutes, expected), spec.wall_minutes or 0)
