"""Ledgers in no time: making their tables, or waiting for the disk, takes longer than most tests of what is in them."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, make_url

from prefect_campaign.ledger import reading, store
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.clock import Clock


def new_ledger(home: Home, clock: Clock) -> Ledger:
    """The same as `Ledger.open` of a new home, whose ledger is its own file."""
    prepare(home)
    return Ledger.open(home, clock)


def prepare(home: Home) -> None:
    """Give a new home the empty ledger that the first `Ledger.open` would make."""
    path = home.path / "ledger.db"
    if home.ledger_url.startswith("sqlite") and not path.exists():
        path.write_bytes(_empty())


@contextmanager
def unsynced() -> Iterator[None]:
    """Ledgers in SQLite that are opened meanwhile are safe from all but a power cut."""
    make = store._engine

    def engine(url: str) -> Engine:
        made = make(url)
        if made.dialect.name == "sqlite":
            event.listen(made, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_engine", engine)
        yield


@contextmanager
def new_database(*, empty: bool = False, encoding: str = "") -> Iterator[str]:
    """URL of a PostgreSQL database with the ledger's tables, or with nothing in it, which is dropped afterwards."""
    server = os.environ.get("CAMPAIGN_TEST_POSTGRES_URL")
    if not server:
        pytest.skip("needs a PostgreSQL: make rig PARTS=postgres, or CAMPAIGN_TEST_POSTGRES_URL")
    name = f"test_{secrets.token_hex(8)}"
    template = "template0" if empty else _template(server)
    coded = f" ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'" if encoding else ""
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}{coded}")
    try:
        yield _at(server, name)
    finally:
        reading._server.cache_clear()
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        Ledger.open(Home(path.parent, f"sqlite:///{path}")).close()
        return path.read_bytes()


@cache
def _template(server: str) -> str:
    name = f"template_{os.getpid()}_{secrets.token_hex(4)}"
    _execute(server, f"CREATE DATABASE {name}")
    Ledger.open(Home(Path(), _at(server, name))).close()
    return name


def _at(server: str, name: str) -> str:
    url = make_url(server).set(drivername="postgresql+psycopg", database=name)
    return url.render_as_string(hide_password=False)


def _execute(server: str, statement: str) -> None:
    engine = create_engine(make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()
