"""Jobs and GPUs are looked at often enough for tests that finish in seconds, and ledgers are there at once."""

import pytest
from ledgers import prepare

from prefect_campaign.engine import dispatcher, hosts, planning, preflight
from prefect_campaign.ledger.location import Home


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setattr(dispatcher, "LOOK_SECONDS", 0.05)
    for module in (hosts, planning):
        monkeypatch.setattr(module, "FRESH_SECONDS", 0.1)
    monkeypatch.setattr(preflight, "POLL_SECONDS", 0.2)
    prepare(home)
