"""The launcher contract as a queue can keep it: a job starts when it is its turn, and its end is seen a little late."""

import asyncio
import json
import time

import pytest
from contract.keeping import DAMAGED
from contract.launcher_contract import LauncherContract
from contract.launchers import PATIENCE, see, wait_until
from ends import ended

from prefect_campaign.launch.protocol import Launcher, Queue
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.records import AttemptSpec, Handle, Observation


async def see_as(launcher: Launcher, spec: AttemptSpec, handle: Handle, *wanted: str) -> Observation:
    """Observe one job until it is what is expected."""
    deadline = time.monotonic() + PATIENCE
    while (seen := await see(launcher, spec, handle)).status not in wanted:
        assert time.monotonic() < deadline, f"never {wanted}, but {seen}"
        await asyncio.sleep(0.05)
    return seen


class QueueContract(LauncherContract):
    """The whole contract, and what only queues do."""

    async def test_a_handle_survives_json(self, new_launcher, spec_of):
        spec = spec_of("sleep", "60")
        handle = await new_launcher().submit(spec)
        stored = json.loads(json.dumps(handle.__dict__))
        other = new_launcher()
        assert Handle(**stored) == handle
        await see_as(other, spec, Handle(**stored), "running")
        await other.cancel(spec, Handle(**stored), grace_seconds=5)

    async def test_cancel_touches_no_other_job(self, launcher, spec_of):
        one, two = spec_of("sleep", "60", name="one"), spec_of("sleep", "60", name="two")
        first, second = await launcher.submit(one), await launcher.submit(two)
        await see_as(launcher, two, second, "running")
        await launcher.cancel(one, first, grace_seconds=PATIENCE)
        assert (await see(launcher, two, second)).status == "running"
        await launcher.cancel(two, second, grace_seconds=PATIENCE)

    async def test_a_job_that_ignores_term_is_killed(self, launcher, spec_of, root):
        spec = spec_of("sh", "-c", "trap '' TERM; touch started; while :; do sleep 0.01; done")
        handle = await launcher.submit(spec)
        await wait_until((root / "started").exists)
        await launcher.cancel(spec, handle, grace_seconds=0.05)
        seen = await see_as(launcher, spec, handle, "exited", "gone")
        # The scheduler may kill job.sh as well, before it can write down how its command ended.
        assert (seen.status, seen.exit_code, seen.scheduler_state) in (
            ("exited", 137, "CANCELLED"),
            ("gone", None, "CANCELLED"),
        )

    @pytest.mark.parametrize("content", DAMAGED)
    async def test_a_damaged_record_is_no_exit_and_is_set_aside(self, launcher, spec_of, content):
        spec = spec_of("true")
        handle = await launcher.submit(spec)
        await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
        record = launcher.logs(spec)[0].parent / "status.json"
        record.write_bytes(content)
        assert str(record) in (await see(launcher, spec, handle)).detail
        seen = await see_as(launcher, spec, handle, "gone")
        assert seen.exit_code is None
        assert not record.exists()
        assert (record.parent / "status.json.damaged-1").read_bytes() == content

    # -- what only queues do ------------------------------------------------------------------------------------

    async def test_it_is_a_queue(self, launcher):
        assert isinstance(launcher, Queue)
        (view,) = await launcher.look()
        assert view.queue
        assert view.slots == launcher.slots > 0
        assert view.problem == ""
        assert view.gpus == ()

    async def test_many_are_submitted_at_once_and_run_once_each(self, new_launcher, spec_of, root):
        launcher = new_launcher()
        specs = [spec_of("sh", "-c", f"echo {n} >>ran; exit {n}", name=f"e{n}") for n in range(6)]
        answer = await launcher.submit_all(specs)
        assert len({(handle.host, handle.job_id) for handle in answer.values()}) == len(specs)
        waiting = [ended(launcher, spec, answer[spec.token]) for spec in specs]
        await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
        seen = await launcher.observe([(spec, answer[spec.token]) for spec in specs])
        assert [seen[spec.token].exit_code for spec in specs] == list(range(6))
        assert sorted((root / "ran").read_text().split()) == [str(n) for n in range(6)]
        other = new_launcher()
        assert [await other.find(spec) for spec in specs] == [answer[spec.token] for spec in specs]

    async def test_one_bad_spec_among_many_spoils_none(self, launcher, spec_of):
        good = [spec_of("true", name=f"e{n}") for n in range(2)]
        bad = spec_of(name="bad")
        answer = await launcher.submit_all([good[0], bad, good[1]])
        assert isinstance(answer[bad.token], Refused)
        for spec in good:
            assert isinstance(answer[spec.token], Handle)
            await asyncio.wait_for(ended(launcher, spec, answer[spec.token]), PATIENCE)

    async def test_one_of_many_is_cancelled_and_the_others_go_on(self, launcher, spec_of, root):
        script = 'touch "started.$0"; until [ -e go ]; do sleep 0.01; done'
        specs = [spec_of("sh", "-c", script, str(n), name=f"e{n}") for n in range(3)]
        answer = await launcher.submit_all(specs)
        for n in range(3):
            await wait_until((root / f"started.{n}").exists)
        await launcher.cancel(specs[1], answer[specs[1].token], grace_seconds=PATIENCE)
        assert (await see(launcher, specs[1], answer[specs[1].token])).exit_code == 143
        others = [specs[0], specs[2]]
        seen = await launcher.observe([(spec, answer[spec.token]) for spec in others])
        assert {one.status for one in seen.values()} == {"running"}
        (root / "go").touch()
        waiting = [ended(launcher, spec, answer[spec.token]) for spec in others]
        await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
