"""How a launcher cancels jobs: all of one job, and nothing of any other."""

import asyncio

from contract.launchers import PATIENCE, LauncherTests, run_to_end, see, wait_until
from ends import ended


class CancellingContract(LauncherTests):
    """A cancelled job may end in its own way, but it ends, and with it all that it started."""

    async def test_cancel_ends_a_job_and_its_end_is_on_record(self, launcher, spec_of, root):
        spec = spec_of("sh", "-c", "touch started; exec sleep 60")
        handle = await launcher.submit(spec)
        await wait_until((root / "started").exists)
        await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
        seen = await see(launcher, spec, handle)
        assert (seen.status, seen.exit_code, seen.signal) == ("exited", 143, 15)

    async def test_a_cancelled_job_may_end_in_its_own_way(self, launcher, spec_of, root):
        code = "trap 'echo bye; exit 7' TERM; touch started; while :; do sleep 0.01; done"
        spec = spec_of("sh", "-c", code)
        handle = await launcher.submit(spec)
        await wait_until((root / "started").exists)
        await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
        assert (await see(launcher, spec, handle)).exit_code == 7
        assert launcher.logs(spec)[0].read_text() == "bye\n"

    async def test_a_job_that_ignores_term_is_killed(self, launcher, spec_of, root):
        spec = spec_of("sh", "-c", "trap '' TERM; touch started; while :; do sleep 0.01; done")
        handle = await launcher.submit(spec)
        await wait_until((root / "started").exists)
        await launcher.cancel(spec, handle, grace_seconds=0.05)
        seen = await see(launcher, spec, handle)
        assert (seen.status, seen.exit_code) == ("exited", 137)

    async def test_cancel_at_any_moment_leaves_nothing_running(self, launcher, spec_of, root):
        for n in range(10):
            spec = spec_of("sh", "-c", "while :; do sleep 0.01; done", name=f"early{n}")
            handle = await launcher.submit(spec)
            await asyncio.sleep(n / 2000)
            await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
            await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)  # a record may come a little later
            seen = await see(launcher, spec, handle)
            # Not by KILL: the TERM reached it, however early it came.
            assert (seen.status, seen.exit_code) in (("exited", 143), ("gone", None))

    async def test_cancel_touches_no_other_job(self, launcher, spec_of):
        one, two = spec_of("sleep", "60", name="one"), spec_of("sleep", "60", name="two")
        first, second = await launcher.submit(one), await launcher.submit(two)
        await launcher.cancel(one, first, grace_seconds=PATIENCE)
        assert (await see(launcher, two, second)).status == "running"
        await launcher.cancel(two, second, grace_seconds=PATIENCE)

    async def test_cancelling_a_job_that_is_over_changes_nothing(self, launcher, spec_of):
        spec = spec_of("sh", "-c", "exit 5")
        seen = await run_to_end(launcher, spec)
        handle = await launcher.find(spec)
        await launcher.cancel(spec, handle)
        await launcher.cancel(spec, handle)
        assert await see(launcher, spec, handle) == seen

    async def test_the_whole_tree_ends_also_those_in_sessions_of_their_own(self, launcher, spec_of, root):
        note = 'echo $$ >"pid.$1"; exec sleep 61'
        tree = f"""
            stubborn() {{ sh -c 'trap "" TERM; {note}' sh "$1"; }}
            sh -c '{note}' sh plain &
            stubborn stubborn &
            sh -c 'sh -c "echo \\$\\$ >pid.grandchild; exec sleep 61" & wait' &
            setsid sh -c '{note}' sh session &
            setsid sh -c 'trap "" TERM; {note}' sh stubborn_session &
            wait
        """
        spec = spec_of("sh", "-c", tree)
        names = ("plain", "stubborn", "grandchild", "session", "stubborn_session")
        handle = await launcher.submit(spec)
        pids = {}
        for name in names:
            path = root / f"pid.{name}"
            await wait_until(lambda path=path: path.exists() and path.read_text().strip(), name)
            pids[name] = int(path.read_text())
        await launcher.cancel(spec, handle, grace_seconds=0.2)
        assert [name for name, pid in pids.items() if self.job_process_runs(spec, pid)] == []
