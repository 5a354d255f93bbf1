"""Processes that place experiments on the same GPUs at once; run as a program: PROCESSES, ROUNDS.

Every placement is followed, in the same transaction, by an independent sum over all leases on record.
"""

import multiprocessing
import random
import sys
import time
from multiprocessing.synchronize import Barrier

from unit.ledger.ledger_data import campaign

from prefect_campaign.ledger import leases
from prefect_campaign.ledger.campaigns import register
from prefect_campaign.ledger.experiments import Intent, Move, Outcome, open_stage, record_intents, record_outcomes
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger
from prefect_campaign.model.devices import Gpu, HostView
from prefect_campaign.model.plan import make_plan
from prefect_campaign.model.records import AttemptSpec
from prefect_campaign.model.states import AttemptState, ExperimentState
from prefect_campaign.placement.demand import Demand, Held, Rules
from prefect_campaign.placement.place import place

HOST = HostView("h1", 4, tuple(Gpu(f"GPU-{i}", i, "RTX", total_mb=24000) for i in range(4)))
STAGE = "full"
_together: list[Barrier] = []
"""At which all processes begin."""


def over_committed(held: list[leases.Lease]) -> str:
    """What is wrong with the leases on record, counted anew; empty if nothing."""
    for gpu in HOST.gpus:
        mine = [one for one in held if one.device == gpu.uuid]
        whole = [one for one in mine if one.vram_mb is None or not one.shared]
        if whole and len(mine) > 1:
            return f"{gpu.uuid}: {[one.token for one in mine]} beside one that shares nothing"
        if sum(one.vram_mb or 0 for one in mine) > gpu.total_mb:
            return f"{gpu.uuid}: {[(one.token, one.vram_mb) for one in mine]} in {gpu.total_mb}"
    return ""


def place_and_end(name: str, rounds: int) -> int:
    """What one process does; returns how many it placed."""
    dice = random.Random(name)
    ledger = Ledger.open(Home.locate())
    spec = campaign(name=name)
    with ledger.write() as connection:
        row = register(connection, spec, make_plan(spec), now=time.time(), spec_path=None, new_round=False)
        open_stage(connection, row.id, STAGE, now=time.time())
    waiting = [e.exp_id for e in make_plan(spec).experiments if e.stage == STAGE]
    attempts = dict.fromkeys(waiting, 0)
    running: list[Intent] = []
    placed = 0
    _together[0].wait()
    for _ in range(rounds):
        share = dice.random() < 0.6
        wanted = [
            Demand(e, gpus=dice.choice([1, 1, 2, 4]), vram_mb=dice.choice([4000, 9000, 15000]) if share else None)
            for e in waiting
        ]
        with ledger.write() as connection:
            leases.lock(connection)
            held = leases.held(connection, ["h1"])
            rows = [Held(o.host, o.device, o.token, o.vram_mb, o.shared) for o in held]
            found = place(wanted, [HOST], rows, Rules(share=share), time.time())
            by_id = {d.exp_id: d for d in wanted}
            started = [_intent(name, a.exp_id, a.devices, by_id[a.exp_id], attempts, share) for a in found.assignments]
            record_intents(connection, row.id, started, now=time.time())
            wrong = over_committed(leases.held(connection, ["h1"]))
            assert not wrong, wrong
        placed += len(started)
        running += started
        waiting = [e for e in waiting if e not in {i.spec.exp_id for i in started}]
        ending = [one for one in running if dice.random() < 0.6]
        with ledger.write() as connection:
            record_outcomes(connection, row.id, [_failed(one) for one in ending], now=time.time())
        running = [one for one in running if one not in ending]
        waiting += [one.spec.exp_id for one in ending]
    with ledger.write() as connection:  # the slower ones get their turn
        record_outcomes(connection, row.id, [_failed(one) for one in running], now=time.time())
    return placed


def _intent(
    name: str, exp_id: str, devices: tuple[str, ...], demand: Demand, attempts: dict[str, int], share: bool
) -> Intent:
    old = ExperimentState.QUEUED if attempts[exp_id] else ExperimentState.READY
    attempts[exp_id] += 1
    token = f"pc-{name}-{exp_id}-a{attempts[exp_id]}"
    spec = AttemptSpec(exp_id, attempts[exp_id], token, ("true",), {}, "/tmp", f"/tmp/{token}", {}, 0, host="h1",
                       gpus=devices, vram_mb=demand.vram_mb)  # fmt: skip
    return Intent(spec, old, "local", "h1", devices, shared=share and demand.vram_mb is not None)


def _failed(one: Intent) -> Outcome:
    move = Move(one.spec.exp_id, ExperimentState.LAUNCHING, ExperimentState.QUEUED)
    return Outcome(one.spec.token, AttemptState.FAILED, move, time.time())


def main(processes: int, rounds: int) -> None:
    """Print how many each of them placed."""
    names = [(f"racer{i}", rounds) for i in range(processes)]
    fork = multiprocessing.get_context("fork")
    with fork.Pool(processes, _together.append, [fork.Barrier(processes)], maxtasksperchild=1) as pool:
        print(*pool.starmap(place_and_end, names, chunksize=1))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
