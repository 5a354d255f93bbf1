"""Answering an alert from the Prefect UI: the deployment ``intervene/answer``."""

import asyncio
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from prefect_campaign.engine.answers import answer_alert

# The words of `ledger.alerts`; only literals make a select box.
Choice = Literal["Continue anyway", "Pick another GPU", "Skip the probe", "Stop"]


@flow(name="intervene", flow_run_name="alert {alert}: {choice}", persist_result=False)
async def intervene(
    alert: Annotated[int, Field(ge=1)], choice: Choice, by: Annotated[str, Field(min_length=1)], reason: str = ""
) -> State[dict[str, Any]]:
    """Answer an alert of a campaign; whoever drives the campaign acts on it at its next look.

    The last answer holds until it has taken effect. (What is said of the parameters is shown in the form.)

    Args:
        alert: Number of the alert, as its artifact, the log of its monitor run and `campaign alerts` say it.
        choice: "Continue anyway" starts the experiment beside whoever uses the GPU; "Pick another GPU" waits until
            one is free, and disturbs nobody; "Skip the probe" runs it without measuring its memory first; "Stop" puts
            it on hold until a person has it tried again. The alert says which of these it takes. Open the list by the
            arrow at its right end.
        by: Your name; kept with the answer.
        reason: Why; kept with the answer.

    Returns:
        alert, campaign, experiment, choice, by, and in `done` what became of it.

    Raises:
        Refused: there is no such alert, it asks nothing (any more), or it does not offer this.
    """
    answered = await asyncio.to_thread(answer_alert, alert, choice, by=by, reason=reason)
    get_run_logger().info(answered.told)
    found = {
        "alert": answered.alert_id,
        "campaign": answered.campaign,
        "experiment": answered.exp_id,
        "choice": answered.choice,
        "by": answered.by,
        "done": answered.told,
    }
    return Completed(message=answered.told, data=found)
