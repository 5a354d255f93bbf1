"""Ending jobs on the fake cluster: only our own, many in one call, and believed only when it is seen."""

import asyncio

import pytest
from contract.launchers import see, wait_until
from contract.slurm_world import DOWN, fake, new, spec_of

from prefect_campaign.model.errors import CampaignError, Transient

__all__ = ["fake", "new", "spec_of"]


async def test_a_cancellation_that_does_nothing_is_not_believed(fake, new, clock, spec_of, monkeypatch):
    monkeypatch.setattr("prefect_campaign.launch.slurm.cancel._LONGEST_PAUSE", 0.05)
    fake.configure(slots=0)
    fake.fault("scancel", acts=False, rc=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    cancelling = asyncio.create_task(launcher.cancel(spec, handle, grace_seconds=1))
    await wait_until(lambda: fake.calls("scancel"))
    assert not cancelling.done()
    assert (await see(launcher, spec, handle)).status == "pending"
    clock.advance(15)
    await wait_until(lambda: len(fake.calls("scancel")) >= 2)
    clock.advance(60)
    with pytest.raises(Transient):
        await asyncio.wait_for(cancelling, 20)
    fake.heal()
    await launcher.cancel(spec, handle)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.scheduler_state) == ("gone", "CANCELLED")


async def test_a_wall_clock_that_is_set_neither_hurries_nor_delays_a_cancellation(
    fake, new, clock, spec_of, monkeypatch
):
    monkeypatch.setattr("prefect_campaign.launch.slurm.cancel._LONGEST_PAUSE", 0.05)
    fake.configure(slots=0)
    fake.fault("scancel", acts=False, rc=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    cancelling = asyncio.create_task(launcher.cancel(spec, handle, grace_seconds=1))
    for n, jump in enumerate((5000, -10000), start=1):
        await wait_until(lambda n=n: len(fake.calls("scancel")) == n)
        clock.jump(jump)
        looks = len(fake.calls("squeue"))
        await wait_until(lambda looks=looks: len(fake.calls("squeue")) > looks + 3)
        assert len(fake.calls("scancel")) == n
        assert not cancelling.done()
        clock.advance(11)
    clock.advance(60)
    with pytest.raises(Transient):
        await asyncio.wait_for(cancelling, 20)


async def test_many_cancellations_are_one_call_of_our_own_ids(fake, new, spec_of):
    fake.configure(slots=0)
    launcher = new()
    specs = [spec_of("true", name=f"e{n}") for n in range(100)]
    answer = await launcher.submit_all(specs)
    other = spec_of("true", name="other")
    kept = await launcher.submit(other)
    await asyncio.gather(*(launcher.cancel(spec, answer[spec.token]) for spec in specs[10:60]))
    assert [call[-1] for call in fake.calls("scancel")] == ["101_[10-59]"]
    seen = await launcher.observe([(spec, answer[spec.token]) for spec in specs] + [(other, kept)])
    assert [seen[spec.token].status for spec in specs] == ["pending"] * 10 + ["gone"] * 50 + ["pending"] * 40
    assert seen[other.token].status == "pending"


async def test_cancel_with_a_silent_controller_says_so(fake, new, spec_of):
    fake.configure(slots=0)
    launcher = new()
    handle = await launcher.submit(spec := spec_of("true"))
    fake.fault("squeue", acts=False, err=DOWN, rc=1)
    with pytest.raises(CampaignError) as told:
        await launcher.cancel(spec, handle)
    assert isinstance(told.value, Transient)
    assert fake.calls("scancel") == []
