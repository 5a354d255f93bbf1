"""Ending jobs of PBS is believed only when it is seen; a thousand jobs cost a few calls."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from contract.launchers import see
from contract.pbs_lab import clock, launcher, new_launcher, pbs, run_and_note, spec_of

from prefect_campaign.launch.pbs.script import job_name
from prefect_campaign.model.errors import Transient
from prefect_campaign.model.records import Handle

FIXTURES = (clock, launcher, new_launcher, pbs, spec_of)


async def test_a_qdel_that_does_nothing_is_not_believed(pbs, new_launcher, spec_of):
    spec = spec_of("sleep", "60")
    launcher = new_launcher()
    handle = await run_and_note(launcher, spec)
    pbs.fail("deaf")
    launcher._canceller._slack = 0.2
    with pytest.raises(Transient, match=r"still has job 1\.pbs"):
        await launcher.cancel(spec, handle, grace_seconds=0.1)
    assert (await see(launcher, spec, handle)).status == "running"
    pbs.mend("deaf")
    await launcher.cancel(spec, handle, grace_seconds=10)
    assert (await see(launcher, spec, handle)).exit_code == 143


async def test_a_job_that_waits_is_cancelled_before_it_ran(pbs, new_launcher, spec_of, clock):
    pbs.fail("stopped")
    spec = spec_of("true")
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    await launcher.cancel(spec, handle)
    clock.now += 31
    await see(launcher, spec, handle)
    clock.now += 31
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.scheduler_state) == ("gone", "CANCELLED")
    assert not (Path(spec.run_dir) / "claim").exists()


async def test_a_handle_of_another_queue_is_left_alone(pbs, launcher, spec_of):
    spec = spec_of("true")
    theirs = Handle("pbs", "elsewhere", "1.pbs")
    assert (await see(launcher, spec, theirs)).status == "unreachable"
    with pytest.raises(Transient):
        await launcher.cancel(spec, theirs)
    assert pbs.calls("qstat") == pbs.calls("qdel") == []


# -- many -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pbs", ["with qselect"], indirect=True)
async def test_a_thousand_jobs_are_seen_in_one_call_and_ended_in_a_few(pbs, new_launcher, spec_of):
    pbs.fail("stopped")
    launcher = new_launcher(poll_seconds=30.0, clock=time.time)
    specs = [spec_of("true", name=f"e{n}") for n in range(1000)]
    pairs = [(spec, await launcher.submit(spec)) for spec in specs[:5]]
    template = pbs.jobs()[1]
    for number, spec in enumerate(specs[5:], 6):  # as if they had gone through qsub, which takes a process each
        Path(spec.run_dir).mkdir(parents=True)
        own = {**template, "Job_Name": job_name(spec.token), "Variable_List": {"CAMPAIGN_TOKEN": spec.token}}
        (pbs.folder / "jobs" / f"{number}.json").write_text(json.dumps(own))
        pairs.append((spec, Handle("pbs", "lab", f"{number}.pbs")))
    for _ in range(3):
        seen = await launcher.observe(pairs)
    assert {one.status for one in seen.values()} == {"pending"}
    assert len([call for call in pbs.calls("qstat") if "-f" in call]) == 1
    await asyncio.gather(*(launcher.cancel(*pair) for pair in pairs))
    assert len(pbs.calls("qdel")) <= 10
    assert sorted(job for call in pbs.calls("qdel") for job in call) == sorted(f"{n}.pbs" for n in range(1, 1001))
    assert len([call for call in pbs.calls("qstat") if "-f" in call]) <= 12
