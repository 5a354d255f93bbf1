"""Empty ledgers in no time: making the tables takes longer than most tests of what is in them."""

import tempfile
from functools import cache
from pathlib import Path

from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.clock import Clock


def new_ledger(home: Home, clock: Clock) -> Ledger:
    """The same as `Ledger.open` of a new home, whose ledger is its own file."""
    (home.path / "ledger.db").write_bytes(_empty())
    return Ledger.open(home, clock)


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        Ledger.open(Home(path.parent, f"sqlite:///{path}")).close()
        return path.read_bytes()
