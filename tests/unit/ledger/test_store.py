"""Opening a ledger: new, old, damaged."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import MetaData, insert, select, text
from unit.ledger.ledger_data import Book, E, register_demo

from prefect_campaign.ledger import alerts, queries, store
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.leases import Claim, Stale, held, take
from prefect_campaign.ledger.location import SCHEMA_REVISION, Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.errors import LedgerDamaged, Refused, Transient


def garbage(whole: bytes) -> bytes:
    return b"this is not a database at all\n" * 500


def half(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def header_only(whole: bytes) -> bytes:
    return whole[:100]


def scribbled(whole: bytes) -> bytes:
    return whole[:4096] + b"\xa5" * (len(whole) - 4096)


FULL = [f"main_lr{lr}_s0" for lr in (1, 2, 3)]
DAMAGE = [garbage, half, header_only, scribbled]


@pytest.fixture
def damaged(home: Home, ledger: Ledger, request: pytest.FixtureRequest) -> Path:
    """The path of a ledger with a campaign in it, damaged as the parameter says."""
    register_demo(ledger)
    ledger.close()
    path = home.path / "ledger.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    path.write_bytes(request.param(path.read_bytes()))
    return path


@pytest.mark.sqlite_file
@pytest.mark.parametrize("damaged", DAMAGE, indirect=True)
def test_a_damaged_ledger_is_reported_with_its_path_and_left_as_it_is(damaged: Path, home: Home) -> None:
    before = damaged.read_bytes()
    with pytest.raises(LedgerDamaged, match=str(damaged)), Reader(home.ledger_url) as reader:
        queries.campaign(reader, "demo")
    with pytest.raises(LedgerDamaged, match=f"{damaged}: is damaged .*untouched"):
        register_demo(Ledger.open(home))
    assert damaged.read_bytes() == before


@pytest.mark.sqlite_file
def test_no_ledger_yet_is_no_damage(home: Home) -> None:
    with pytest.raises(Refused, match="does not exist yet") as error:
        Reader(home.ledger_url)
    assert not isinstance(error.value, LedgerDamaged)


@pytest.mark.sqlite_file
def test_a_ledger_that_is_just_being_made_is_not_called_damaged(home: Home) -> None:
    (home.path / "ledger.db").touch()
    with pytest.raises(Refused) as error, Reader(home.ledger_url) as reader:
        queries.campaign(reader, "demo")
    assert not isinstance(error.value, LedgerDamaged)


def test_a_locked_ledger_is_not_called_damaged(home: Home, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    with Reader(home.ledger_url) as reader:
        monkeypatch.setattr(reader, "_sqlite", None)
        monkeypatch.setattr(reader, "_select", _locked)
        with pytest.raises(Transient, match="locked"):
            queries.campaign(reader, "demo")


def _locked(*_: object) -> None:
    raise sqlite3.OperationalError("database is locked")


def test_a_ledger_of_a_newer_release_is_refused_and_left_as_it_is(home: Home, ledger: Ledger) -> None:
    with ledger.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Refused, match="schema 9999 is not known to this release"):
        Ledger.open(home)
    with ledger.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"


def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CAMPAIGN_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(Refused, match=r"CAMPAIGN_HOME .*cannot be written"):
        Home.locate().ensure()


def test_the_migrations_make_exactly_the_tables_of_the_code(ledger: Ledger) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with ledger.write() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, t.metadata) == []
        assert context.get_current_revision() == SCHEMA_REVISION


def of_the_first_release(ledger: Ledger) -> None:
    """Put all that is in a ledger into the tables that the first release made, with the columns that those have."""
    from alembic.command import upgrade
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(store.__file__).parent / "migrations"))
    with ledger.write() as connection:
        rows = {table: connection.execute(select(table)).mappings().all() for table in t.metadata.sorted_tables}
        today = MetaData()
        today.reflect(connection)
        today.drop_all(connection)
        config.attributes["connection"] = connection
        upgrade(config, "0001")
        first = MetaData()
        first.reflect(connection)
        assert "gpu_numbers" not in first.tables
        assert "run_dir" not in first.tables["leases"].columns
        for table, found in rows.items():
            for row in sorted(found, key=lambda r: r["id"]):
                known = {k: v for k, v in row.items() if k != "id" and k in first.tables[table.name].columns}
                connection.execute(insert(table).values(known))
    ledger.close()


def test_a_ledger_of_the_first_release_is_brought_up_to_date_with_all_that_is_in_it(home: Home, ledger: Ledger) -> None:
    book = register_demo(ledger)
    book.open_stage("full")
    open_one, _, over = (book.launch(e, device=f"slot-{n}") for n, e in enumerate(FULL))
    book.end(over, values={"objective_value": 0.5})
    with ledger.write() as connection:
        asked = {"syndrome": "gpu_busy", "message": "busy", "choices": ("Stop",), "now": 1.0}
        alerts.raise_alert(connection, book.row.id, open_one.exp_id, 1, **asked)
    before = book.dump()
    assert all(before[name] for name in ("campaigns", "plans", "experiments", "attempts", "leases", "events", "alerts"))
    of_the_first_release(ledger)

    book.ledger = Ledger.open(home)
    assert book.dump() == before
    with book.ledger.write() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == SCHEMA_REVISION
        assert alerts.answer(connection, 1, "Stop", by="ann", now=2.0) == "Stop"
    with pytest.raises(Stale):
        book.end(over, E.FAILED)  # what is final stays so
    book.end(open_one)
    assert book.states()[open_one.exp_id] == "done"
    assert [r["device"] for r in book.rows(t.leases)] == ["slot-1"]
    with book.ledger.write() as connection:  # what is new can be used
        take(connection, book.row.id, [Claim("here", ("GPU-1",), "probe", run_dir="/r/probe")], now=3.0)
        assert {r.run_dir for r in held(connection, ["here"])} == {"/r/main_lr2_s0/1", "/r/probe"}
    book.ledger.close()


def test_the_schema_check_would_see_a_missing_column_and_a_missing_constraint(ledger: Ledger) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with ledger.write() as connection:
        connection.execute(text("ALTER TABLE campaigns DROP COLUMN reason"))
        connection.execute(text("DROP INDEX ix_events_campaign"))
        found = str(compare_metadata(MigrationContext.configure(connection), t.metadata))
    assert "reason" in found
    assert "ix_events_campaign" in found


@pytest.mark.sqlite_file
def test_what_is_committed_is_synced_and_readers_do_not_wait(ledger: Ledger) -> None:
    with ledger.write() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        # A reader beside this open write transaction.
        with ledger.read() as beside:
            assert beside.execute(text("SELECT COUNT(*) FROM campaigns")).scalar() == 0


def test_a_failed_transaction_leaves_nothing(ledger: Ledger) -> None:
    def fail() -> None:
        with ledger.write() as connection:
            connection.execute(text("DELETE FROM alembic_version"))
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        fail()
    with ledger.read() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM alembic_version")).scalar() == 1


def test_a_path_with_odd_characters_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "a b?c#d%20é"
    monkeypatch.setenv("CAMPAIGN_HOME", str(odd))
    monkeypatch.delenv("CAMPAIGN_LEDGER_URL", raising=False)
    home = Home.locate().ensure()
    ledger = Ledger.open(home)
    register_demo(ledger)
    ledger.close()
    assert (odd / "ledger.db").is_file()
    with Reader(home.ledger_url) as reader:
        assert queries.campaign(reader, "demo")["name"] == "demo"
    shutil.rmtree(odd)
