"""A ledger that is not there yet is opened."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ledgers import new_database
from sqlalchemy import text

from prefect_campaign.ledger import queries
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.ledger.store import Ledger

ADD = """
INSERT INTO campaigns (name, round, status, reason, phase, stage, iteration, plan_hash, spec, fence, waits, created_at,
    updated_at)
VALUES (:n, 1, 'open', '', 'pilot', 's', 1, 'h', '{}', 0, '', 0, 0)
"""
OPEN = """
import sys
from sqlalchemy import text
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger
import alembic.command
home = Home.locate().ensure()
print("ready", flush=True)
sys.stdin.readline()
with Ledger.open(home).write() as connection:
    connection.execute(text(sys.argv[2]), {"n": sys.argv[1]})
"""


def test_several_processes_may_open_a_new_home_at_once(home: Home) -> None:
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen([sys.executable, "-c", OPEN, f"c{i}", ADD], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for i in range(4)
    ]
    for process in running:
        assert process.stdout
        process.stdout.readline()
    for process in running:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, "\n".join(said)
    with Reader(home.ledger_url) as reader:
        assert sorted(queries.campaign_names(reader)) == ["c0", "c1", "c2", "c3"]


@pytest.mark.postgres
def test_a_database_without_an_encoding_keeps_text() -> None:
    with new_database(empty=True, encoding="SQL_ASCII") as url:
        home = Home(Path(), url)
        ledger = Ledger.open(home)
        with ledger.write() as connection:
            connection.execute(text(ADD), {"n": "größer"})
        ledger.close()
        with Reader(url) as reader:
            assert list(queries.campaign_names(reader)) == ["größer"]


def test_a_new_file_is_waited_for_however_many_open_it_at_once(tmp_path: Path) -> None:
    # SQLite refuses at once, whatever its timeout, while another one changes the journal of the same new file.
    def mode(ledger: Ledger, together: threading.Barrier) -> str:
        together.wait()
        with ledger.read() as connection:
            return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar())

    with ThreadPoolExecutor(8) as threads:
        for new in range(12):
            together = threading.Barrier(8)
            ledgers = [Ledger(f"sqlite:///{tmp_path / str(new)}.db") for _ in range(8)]
            assert list(threads.map(mode, ledgers, [together] * 8)) == ["wal"] * 8
            for ledger in ledgers:
                ledger.close()
