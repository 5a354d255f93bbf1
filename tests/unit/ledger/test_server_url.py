"""A ledger on a database server: what people write, and what they are told when it does not work."""

import pytest

from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.errors import Refused, Transient

AWAY = "postgresql://ada:hush@127.0.0.1:9/campaign"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_the_driver_need_not_be_named(home: Home, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("CAMPAIGN_LEDGER_URL", f"{scheme}://db/campaign")
    assert Home.locate().ledger_url == "postgresql+psycopg://db/campaign"


def test_a_server_that_is_away_is_named_without_the_password(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMPAIGN_LEDGER_URL", AWAY)
    url = Home.locate().ledger_url
    for use in (lambda: Ledger.open(Home.locate()), lambda: Reader(url).rows("SELECT 1")):
        with pytest.raises(Transient, match=r"127\.0\.0\.1:9/campaign.*is the server up") as told:
            use()
        assert "hush" not in str(told.value)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nothing://x", "postgresql://user"),
        ("mysql://h/d", "SQLite or PostgreSQL"),
        ("::", "CAMPAIGN_LEDGER_URL"),
    ],
)
def test_a_url_that_is_none_is_refused_in_one_line(home: Home, url: str, said: str) -> None:
    for use in (lambda: Ledger(url), lambda: Reader(url)):
        with pytest.raises(Refused) as told:
            use()
        assert said in str(told.value)
        assert "\n" not in str(told.value)
