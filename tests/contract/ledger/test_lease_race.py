"""Many processes place on the same GPUs at once: no two ever hold the same memory."""

import os
import subprocess
import sys
from pathlib import Path

from contract.ledger.racer import HOST, over_committed

from prefect_campaign.ledger.leases import Lease
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger

PROCESSES, ROUNDS = 8, 25


def test_no_two_processes_hold_the_same_memory(home: Home) -> None:
    tests = Path(__file__).parents[2]
    env = {**os.environ, "CAMPAIGN_HOME": str(home.path), "PYTHONPATH": str(tests)}
    Ledger.open(home).close()
    argv = [sys.executable, "-m", "contract.ledger.racer", str(PROCESSES), str(ROUNDS)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    placed = list(map(int, done.stdout.split()))
    assert len(placed) == PROCESSES
    # Many of them got a share, so they were in each other's way.
    assert sum(n > 0 for n in placed) >= 3, placed
    assert sum(placed) > ROUNDS


def test_the_checker_sees_what_it_is_for() -> None:
    def lease(token: str, vram: int | None, *, shared: bool = True) -> Lease:
        return Lease("h1", HOST.gpus[0].uuid, token, 1, vram, shared, None)

    assert over_committed([lease("a", 12000), lease("b", 12000)]) == ""
    assert over_committed([lease("a", 12000), lease("b", 13000)])
    assert over_committed([lease("a", 1, shared=False), lease("b", 1)])
    assert over_committed([lease("a", None), lease("b", 1)])
