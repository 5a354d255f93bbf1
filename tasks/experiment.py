"""One Prefect task run per experiment; its Prefect retries are the experiment's attempts."""

from contextvars import ContextVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed

from prefect_campaign.engine.dispatcher import Dispatcher
from prefect_campaign.engine.ends import AttemptEnd
from prefect_campaign.model.states import ExperimentState

current_dispatcher: ContextVar[Dispatcher] = ContextVar("current_dispatcher")
"""Set by the flow that watches; a parameter would be serialised and shown in the UI."""


class AttemptFailed(Exception):  # noqa: N818 - what happened, in the ledger's words
    """An attempt ended badly; `end` says whether another one follows."""

    def __init__(self, end: AttemptEnd) -> None:
        super().__init__(f"{end.exp_id} attempt {end.attempt}: {end.reason}")
        self.end = end


def _another_follows(_task: object, _run: object, state: State) -> bool:
    error = state.data
    error = getattr(error, "data", error)
    return isinstance(error, AttemptFailed) and error.end.state == ExperimentState.QUEUED


@task(
    name="experiment",
    task_run_name="{exp_id}",
    # The dispatcher decides whether and when there is another attempt; this is only the ceiling.
    retries=1000,
    retry_delay_seconds=0,
    retry_condition_fn=_another_follows,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def experiment(exp_id: str) -> State | float | None:
    """Follow one attempt of an experiment to its end.

    Returns:
        The objective value of a finished experiment.

    Raises:
        AttemptFailed: the attempt failed; Prefect runs the task again if another attempt follows.
    """
    end = await current_dispatcher.get().ends.next(exp_id)
    if end.state == ExperimentState.DONE:
        return end.objective_value
    if end.state == ExperimentState.CANCELLED:
        return Cancelled(message=end.reason)
    if end.state == ExperimentState.ON_HOLD:
        return Completed(name="OnHold", message=end.reason)
    raise AttemptFailed(end)
