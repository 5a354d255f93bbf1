"""The embedded Prefect server, as commands meet it."""

import prefect.context
import pytest
from prefect.settings import PREFECT_API_URL

from prefect_campaign.cli import server

URL = "http://127.0.0.1:9/api"


def test_prefect_in_this_process_goes_by_the_server_that_runs_already(home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it starts one of its own, which answers late and complains about a locked database."""
    monkeypatch.setenv("PREFECT_API_URL", "")  # so that it is taken back whatever it was
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setattr(prefect.context, "GLOBAL_SETTINGS_CONTEXT", prefect.context.root_settings_context())
    monkeypatch.setattr(server, "_running", lambda home: URL)
    assert PREFECT_API_URL.value() is None
    assert server.ensure_server(home) == URL
    assert PREFECT_API_URL.value() == URL
