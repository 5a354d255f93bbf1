"""Several processes open a ledger that is not there yet."""

import subprocess
import sys

from prefect_campaign.ledger import queries
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader

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
    connection.execute(text("INSERT INTO campaigns (name, round, status, reason, phase, stage, iteration, plan_hash, "
        "spec, fence, waits, created_at, updated_at) "
        "VALUES (:n, 1, 'open', '', 'pilot', 's', 1, 'h', '{}', 0, '', 0, 0)"),
        {"n": sys.argv[1]})
"""


def test_several_processes_may_open_a_new_home_at_once(home: Home) -> None:
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen([sys.executable, "-c", OPEN, f"c{i}"], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
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
