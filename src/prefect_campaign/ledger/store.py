"""Opening the ledger, and its transactions."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.location import SCHEMA_REVISION, Home
from prefect_campaign.model.clock import Clock, system_clock
from prefect_campaign.model.errors import Fenced, LedgerDamaged, Refused, Transient

_MIGRATING = 7020_0001
"""Key of the lock under which one process at a time changes the schema (PostgreSQL)."""
_PATIENCE = 30
"""How long a lock of another process is waited for, seconds (SQLite)."""


class Ledger:
    """The database of record: a SQLite file by default, PostgreSQL by URL.

    Every write is one short transaction; SQLite runs in WAL mode with full sync, so that what was recorded
    survives a power cut.
    """

    def __init__(self, url: str, clock: Clock = system_clock) -> None:
        self.url = url
        self.clock = clock
        self.engine = _engine(url)

    @classmethod
    def open(cls, home: Home, clock: Clock = system_clock) -> "Ledger":
        """Open the ledger of a home folder, creating or migrating it as needed.

        Raises:
            LedgerDamaged: the file is no readable ledger; its path is in the message, it is left as it is.
            Refused: the folder cannot be written, or the ledger was made by a newer release.
        """
        ledger = cls(home.ledger_url, clock)
        with _explained(ledger.url):
            revision = ledger._revision()
            if revision != SCHEMA_REVISION:
                ledger._migrate(revision)
        return ledger

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that holds the write lock from its start."""
        with _explained(self.url), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def fenced(self, campaign_id: int, fence: int) -> Iterator[Connection]:
        """A write transaction of the dispatcher that holds fencing token `fence`.

        Raises:
            Fenced: another dispatcher has taken the campaign over; nothing was written.
        """
        with self.write() as connection:
            query = select(t.campaigns.c.fence).where(t.campaigns.c.id == campaign_id).with_for_update()
            current = connection.execute(query).scalar()
            if current != fence:
                raise Fenced(
                    f"campaign {campaign_id}: another dispatcher took over (fence {current}, ours {fence}); "
                    "this one stops and changes nothing"
                )
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction for reading."""
        with _explained(self.url), self.engine.connect() as connection:
            yield connection.execution_options(read_only=True)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def _revision(self) -> str | None:
        with self.read() as connection:
            if not connection.dialect.has_table(connection, "alembic_version"):
                return None
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()

    def _migrate(self, revision: str | None) -> None:
        from alembic.command import upgrade
        from alembic.config import Config
        from alembic.util.exc import CommandError

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        try:
            # Under the write lock: two processes that open a new home at once must not both create tables.
            with self.engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
                config.attributes["connection"] = connection
                upgrade(config, "head")
        except CommandError as error:
            raise Refused(
                f"ledger {self.url}: its schema {revision} is not known to this release ({error}); upgrade it"
            ) from None


def server_engine(url: str) -> Engine:
    """The engine for a ledger on a database server.

    Raises:
        Refused: the URL is none, or its driver is not installed.
    """
    try:
        made = make_url(url)
        if made.get_backend_name() != "postgresql":
            raise Refused(
                "CAMPAIGN_LEDGER_URL: a ledger is in SQLite or PostgreSQL; write postgresql://user:password@host:port/database"
            )
        # Whatever the database was made with: in SQL_ASCII text would come as bytes.
        return create_engine(made, pool_pre_ping=True, client_encoding="utf8")
    except ModuleNotFoundError as error:
        raise Refused(
            f"CAMPAIGN_LEDGER_URL: needs the Python package {error.name!r}; for PostgreSQL: "
            "pip install 'prefect-campaign[postgres]'"
        ) from None
    except SQLAlchemyError as error:
        raise Refused(f"CAMPAIGN_LEDGER_URL: {error}; write postgresql://user:password@host:port/database") from None


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return server_engine(url)
    # Not parsed as a URL: a folder's name may hold a question mark.
    engine = create_engine(
        URL.create("sqlite", database=_place(url)), connect_args={"timeout": _PATIENCE, "check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # The driver's own implicit BEGIN would take the write lock too late; see _begin.
        connection.isolation_level = None
        _turn_to_wal(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _turn_to_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait for a lock here, whatever the timeout says, when several open a new file at once.
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _place(url: str) -> str:
    """Where the ledger is, for people, and for SQLite the path itself; without a password."""
    return url.split("///", 1)[1] if url.startswith("sqlite") else make_url(url).render_as_string(hide_password=True)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Database errors as one line with the ledger's place and what to do."""
    place = _place(url)
    try:
        yield
    except OperationalError as error:
        text = str(error.orig)
        if "locked" in text or "busy" in text:
            raise Transient(f"ledger {place}: locked by another process for {_PATIENCE} s; try again") from error
        if "deadlock" in text or "could not serialize" in text or "server closed the connection" in text:
            raise Transient(f"ledger {place}: {text.splitlines()[0]}; try again") from error
        if not url.startswith("sqlite"):
            said = text.splitlines()[0]
            raise Transient(f"ledger {place}: cannot be reached ({said}); is the server up?") from error
        if "disk I/O" in text or "full" in text:
            raise Transient(f"ledger {place}: {text}; free some disk space, nothing recorded is lost") from error
        raise Refused(f"ledger {place}: {text}; check the path and its permissions") from error
    except DatabaseError as error:
        text = str(error.orig)
        if isinstance(error.orig, sqlite3.DatabaseError) and ("malformed" in text or "not a database" in text):
            raise LedgerDamaged(
                f"ledger {place}: is damaged ({text}); it was left untouched: move it aside or restore a copy"
            ) from error
        raise
