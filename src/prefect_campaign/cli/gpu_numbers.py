"""`campaign gpus`: which number means which GPU, as the ledger has it."""

from collections.abc import Callable, Sequence

from prefect_campaign.ledger import queries
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.devices import Card
from prefect_campaign.model.errors import CampaignError


def forget_gpu(uuid: str) -> None:
    """Give the number of a GPU that was taken out for good to the next one that comes.

    Raises:
        Refused: no such GPU was ever seen.
    """
    from prefect_campaign.ledger import gpu_numbers
    from prefect_campaign.ledger.store import Ledger

    with Ledger.open(Home.locate().ensure()).write() as connection:
        gpu_numbers.forget(connection, uuid)
    print(f"{uuid} is forgotten; campaigns that run by now know it until they are started again")


def known_numbers(host: str, change: Callable[[Sequence[Card]], Sequence[Card]]) -> Sequence[Card]:
    """What the ledger says of a host's GPUs, brought up to date for this look alone."""
    try:
        with Reader(Home.locate().ledger_url) as reader:
            return change(queries.gpu_cards(reader, host))
    except CampaignError:  # no ledger yet, or one of before there were numbers in it
        return change(())
