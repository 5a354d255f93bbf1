"""Jobs are looked at often enough for tests that finish in seconds."""

import pytest

from prefect_campaign.engine import dispatcher


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, home) -> None:
    monkeypatch.setattr(dispatcher, "LOOK_SECONDS", 0.05)
