"""Jobs are looked at often enough for tests that finish in seconds, and ledgers are there at once."""

import pytest
from ledgers import prepare

from prefect_campaign.engine import dispatcher
from prefect_campaign.ledger.location import Home


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setattr(dispatcher, "LOOK_SECONDS", 0.05)
    prepare(home)
