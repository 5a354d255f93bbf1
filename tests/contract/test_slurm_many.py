"""Ten thousand experiments on the fake cluster: few calls, one question a poll, nothing lost and nothing twice."""

import asyncio
import gc
import pathlib
import tracemalloc
from pathlib import Path

import pytest
from contract.launchers import make_spec
from slurm_fake import FakeSlurm

from prefect_campaign.launch.slurm.launcher import SlurmLauncher
from prefect_campaign.launch.slurm.settings import SlurmSettings
from prefect_campaign.model.records import AttemptSpec, Handle

MANY = 10_000


def specs_in(folder: Path) -> list[AttemptSpec]:
    return [
        make_spec(folder / "runs" / f"e{n}" / "a1", "true", token=f"pc-big-e{n}-a1", gpu_count=1, wall_minutes=60)
        for n in range(MANY)
    ]


@pytest.mark.timeout(600)
async def test_ten_thousand_experiments(tmp_path: Path) -> None:
    fake = FakeSlurm(tmp_path / "cluster", slots=0)
    settings = SlurmSettings("lab", programs=str(fake.bin), max_jobs=MANY)
    launcher = SlurmLauncher(settings, poll_seconds=0)
    specs = specs_in(tmp_path)
    answer = await launcher.submit_all(specs)
    handles = [(spec, answer[spec.token]) for spec in specs]
    assert all(isinstance(handle, Handle) for _, handle in handles)
    assert len({handle.job_id for _, handle in handles}) == MANY
    assert len(fake.calls("sbatch")) <= 12
    assert fake.sql("select count(*) from tasks") == [(MANY,)]

    # Some run, some ended in ways of their own; each is seen as what it is, by one squeue and at most one sacct a poll.
    fake.sql("update tasks set state='RUNNING', node='n1' where base=101 and task < 500")
    fake.sql("update tasks set state='TIMEOUT', node='n1', ended=9e9 where base=102 and task < 100")
    fake.sql("update tasks set state='NODE_FAIL', node='n1', hidden=1 where base=103 and task < 100")
    before = len(fake.calls())
    seen = await launcher.observe(handles)
    statuses = [one.status for one in seen.values()]
    assert len(seen) == MANY
    assert statuses.count("pending") == MANY - 700
    assert statuses.count("running") == 700
    assert sorted(call[0] for call in fake.calls()[before:]) == ["sacct", "squeue"]

    # Another process finds any of them without asking Slurm at all.
    other = SlurmLauncher(settings)
    before = len(fake.calls())
    assert [await other.find(spec) for spec in specs[::500]] == [handle for _, handle in handles[::500]]
    assert len(fake.calls()) == before

    # Memory does not grow with the number of polls. Each asks anew, so the last answer is always among what is counted.
    tracemalloc.start()
    sizes = []
    for _ in range(6):
        before = len(fake.calls("squeue"))
        await launcher.observe(handles)
        assert len(fake.calls("squeue")) == before + 1
        gc.collect()
        # pathlib interns parts of paths: it is charged with the interpreter's own table whenever that is made larger.
        snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, pathlib.__file__)])
        sizes.append(sum(one.size for one in snapshot.traces))
        del snapshot
    tracemalloc.stop()
    assert max(sizes[1:]) - sizes[0] < 100_000, sizes

    before = len(fake.calls("scancel"))
    rest = [(spec, handle) for spec, handle in handles if int(handle.job_id.split("_")[0]) >= 104]
    await asyncio.gather(*(launcher.cancel(spec, handle) for spec, handle in rest))
    assert len(fake.calls("scancel")) - before <= 2
    assert fake.sql("select distinct state from tasks where base >= 104") == [("CANCELLED",)]
    assert fake.sql("select count(*) from tasks where base = 101 and state = 'RUNNING'") == [(500,)]
    launcher.close()
    other.close()
