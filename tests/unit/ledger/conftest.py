"""A campaign whose pilot stage is open: one ready pilot experiment, three planned full ones."""

import pytest
from unit.ledger.ledger_data import Book, register_demo

from prefect_campaign.ledger.store import Ledger

PILOT = "p1_main_lr1_s0"


@pytest.fixture
def book(ledger: Ledger) -> Book:
    made = register_demo(ledger)
    made.open_stage()
    return made
