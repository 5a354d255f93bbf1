"""What can be wrong with a spec that its own fields do not show."""

from prefect_campaign.model.errors import Refused
from prefect_campaign.model.load import check_command
from prefect_campaign.model.plan import Plan, make_plan
from prefect_campaign.model.spec import Campaign


def check_spec(campaign: Campaign, source: object = None) -> Plan:
    """All that can be wrong with a spec before anything is made; returns its plan.

    Args:
        campaign: the spec.
        source: where it was read from; a path is named in the error.

    Raises:
        Refused: one line that names the file, if there is one, and the field.
    """
    try:
        return _checked(campaign)
    except Refused as error:
        if isinstance(source, str):
            raise Refused(f"{source}: {error}") from None
        raise


def _checked(campaign: Campaign) -> Plan:
    plan = make_plan(campaign)
    check_command(campaign)
    return plan
