"""How a launcher keeps hold of jobs: found by any launcher, started once, watched to the end."""

import asyncio
import json
from pathlib import Path

import pytest
from contract.launchers import PATIENCE, LauncherTests, run_to_end, see, wait_until
from ends import ended

from prefect_campaign.model.errors import Unknown
from prefect_campaign.model.records import Handle

DAMAGED = (
    b"",
    b"{",
    b'{"state":"exited","exit_code":0,"tok',
    b"\xff\xfe\x00",
    b"[]",
    b"null",
    b'{"state":"exited","exit_code":true,"token":"pc-test-e-a1"}',
    b'{"state":"exited","exit_code":"0","token":"pc-test-e-a1"}',
    b'{"state":"exited","exit_code":-1,"token":"pc-test-e-a1"}',
    b'{"state":"exited","exit_code":NaN,"token":"pc-test-e-a1"}',
    b'{"state":"running","exit_code":0,"token":"pc-test-e-a1"}',
    b'{"state":"exited","exit_code":0,"token":"pc-test-other-a1"}',
    b'{"state":"exited","exit_code":0}',
    b'{"state":"exited","exit_code":0,"token":"pc-test-e-a1"}' + b" " * 100_000,
    b"[" * 50_000,
)
"""Contents that are no exit record of the attempt ``pc-test-e-a1``."""


class KeepingContract(LauncherTests):
    """No job is started twice, none is lost, and its end is told."""

    async def test_an_attempt_that_was_never_submitted_is_not_found(self, launcher, spec_of):
        other = spec_of("true", name="other")
        await run_to_end(launcher, other)
        assert await launcher.find(spec_of("true")) is None

    async def test_a_running_job_is_found_and_followed_by_another_launcher(self, new_launcher, spec_of, root):
        spec = spec_of("sh", "-c", "touch started; until [ -e go ]; do sleep 0.01; done; exit 4")
        handle = await new_launcher().submit(spec)
        await wait_until((root / "started").exists)
        other = new_launcher()
        assert await other.find(spec) == handle
        assert (await see(other, spec, handle)).status == "running"
        over = asyncio.create_task(ended(other, spec, handle))
        (root / "go").touch()
        await asyncio.wait_for(over, PATIENCE)
        assert (await see(other, spec, handle)).exit_code == 4

    async def test_an_ended_job_is_found_with_its_record(self, new_launcher, spec_of):
        spec = spec_of("sh", "-c", "exit 6")
        await run_to_end(new_launcher(), spec)
        other = new_launcher()
        handle = await other.find(spec)
        assert handle is not None
        await asyncio.wait_for(ended(other, spec, handle), PATIENCE)
        assert (await see(other, spec, handle)).exit_code == 6

    async def test_a_handle_survives_json(self, new_launcher, spec_of):
        spec = spec_of("sleep", "60")
        handle = await new_launcher().submit(spec)
        stored = json.loads(json.dumps(handle.__dict__))
        other = new_launcher()
        assert Handle(**stored) == handle
        assert (await see(other, spec, Handle(**stored))).status == "running"
        await other.cancel(spec, Handle(**stored), grace_seconds=5)

    async def test_a_second_submission_says_look_first_and_runs_nothing(self, new_launcher, spec_of, root):
        spec = spec_of("sh", "-c", "echo run >>runs")
        await run_to_end(new_launcher(), spec)
        with pytest.raises(Unknown):
            await new_launcher().submit(spec)
        assert (root / "runs").read_text() == "run\n"

    async def test_closing_a_launcher_leaves_its_jobs_alone(self, new_launcher, spec_of, root):
        spec = spec_of("sh", "-c", "until [ -e go ]; do sleep 0.01; done; exit 3")
        first = new_launcher()
        handle = await first.submit(spec)
        first.close()
        (root / "go").touch()
        other = new_launcher()
        await asyncio.wait_for(ended(other, spec, handle), PATIENCE)
        assert (await see(other, spec, handle)).exit_code == 3

    # -- watching -----------------------------------------------------------------------------------------------

    async def test_many_are_observed_at_once_each_with_its_own_result(self, launcher, spec_of):
        specs = [spec_of("sh", "-c", f"exit {n}", name=f"e{n}") for n in range(5)]
        pairs = [(spec, await launcher.submit(spec)) for spec in specs]
        await asyncio.wait_for(asyncio.gather(*(ended(launcher, *pair) for pair in pairs)), PATIENCE)
        (Path(specs[2].run_dir) / "status.json").write_text("garbage")
        seen = await launcher.observe(pairs)
        async with asyncio.timeout(PATIENCE):
            while seen[specs[2].token].status == "running":  # its scheduler has not taken notice yet
                await asyncio.sleep(0.1)
                seen = await launcher.observe(pairs)
        assert [seen[s.token].exit_code for s in specs] == [0, 1, None, 3, 4]
        assert seen[specs[2].token].status == "gone"

    async def test_observing_nothing_is_fine(self, launcher):
        assert await launcher.observe([]) == {}

    async def test_the_end_is_told_once_to_every_watcher(self, launcher, spec_of, root):
        spec = spec_of("sh", "-c", "until [ -e go ]; do sleep 0.01; done")
        handle = await launcher.submit(spec)
        told: list[tuple[str, str]] = []
        launcher.watch(spec, handle, lambda token: told.append(("a", token)))
        launcher.watch(spec, handle, lambda token: told.append(("b", token)))
        await asyncio.sleep(0.02)
        assert told == []
        (root / "go").touch()
        await wait_until(lambda: len(told) == 2)
        assert sorted(told) == [("a", spec.token), ("b", spec.token)]
        launcher.watch(spec, handle, lambda token: told.append(("late", token)))
        await wait_until(lambda: len(told) == 3)
        assert told[2] == ("late", spec.token)

    @pytest.mark.parametrize("content", DAMAGED)
    async def test_a_damaged_record_is_no_exit_and_is_set_aside(self, launcher, spec_of, content):
        spec = spec_of("true")
        handle = await launcher.submit(spec)
        await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
        record = Path(spec.run_dir) / "status.json"
        record.write_bytes(content)
        seen = await see(launcher, spec, handle)
        assert (seen.status, seen.exit_code) == ("gone", None)
        assert str(record) in seen.detail
        assert "\n" not in seen.detail
        assert not record.exists()
        assert (record.parent / "status.json.damaged-1").read_bytes() == content
