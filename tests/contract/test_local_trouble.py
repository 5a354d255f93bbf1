"""The local launcher when something is wrong: failing starts, damaged records, failing disks."""

import asyncio
import errno
import os
from pathlib import Path

import pytest
from contract.launchers import PATIENCE, make_spec, run_to_end, see, wait_until
from ends import ended

from prefect_campaign.launch import local
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.model.errors import Refused, Transient, Unknown


@pytest.fixture
def launcher():
    made = LocalLauncher()
    yield made
    made.close()


async def test_the_script_is_for_its_owner_only(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "true")
    await run_to_end(launcher, spec)
    assert (Path(spec.run_dir) / "job.sh").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EAGAIN, Transient),
        (errno.ENOMEM, Transient),
        (errno.ENOSPC, Transient),
        (errno.EMFILE, Transient),
        (errno.E2BIG, Refused),
        (errno.ENOENT, Refused),
        (errno.EACCES, Refused),
    ],
)
async def test_a_start_that_fails_says_what_to_do_next(launcher, tmp_path, monkeypatch, code, kind):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    spec = make_spec(tmp_path / "e/a1", "true")
    with monkeypatch.context() as patched:
        patched.setattr(local.subprocess, "Popen", fail)
        with pytest.raises(kind, match=os.strerror(code)):
            await launcher.submit(spec)
    assert await launcher.find(spec) is None
    assert (await run_to_end(launcher, spec)).exit_code == 0


async def test_a_run_dir_that_cannot_be_made_is_refused(launcher, tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file/e/a1", tmp_path / ("x" * 300) / "a1"):
        with pytest.raises(Refused):
            await launcher.submit(make_spec(path, "true", workdir=str(tmp_path)))


async def test_an_identity_that_cannot_be_read_is_unknown_and_found_again(launcher, tmp_path, monkeypatch):
    def fail(pid):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    spec = make_spec(tmp_path / "e/a1", "true")
    with monkeypatch.context() as patched:
        patched.setattr(local, "read_process", fail)
        with pytest.raises(Unknown):
            await launcher.submit(spec)
    await wait_until((Path(spec.run_dir) / "status.json").exists)
    handle = await launcher.find(spec)
    assert (await see(launcher, spec, handle)).exit_code == 0


async def test_a_record_that_is_no_file_is_set_aside(launcher, tmp_path):
    for n, make in enumerate((os.mkdir, os.mkfifo)):
        spec = make_spec(tmp_path / f"e{n}/a1", "true")
        handle = await launcher.submit(spec)
        await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
        record = Path(spec.run_dir) / "status.json"
        record.unlink()
        make(record)
        seen = await see(launcher, spec, handle)
        assert seen.status == "gone"
        assert str(record) in seen.detail


async def test_damaged_records_never_overwrite_each_other(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "true")
    handle = await launcher.submit(spec)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    record = Path(spec.run_dir) / "status.json"
    for n in range(3):
        record.write_text(f"damaged {n}")
        await see(launcher, spec, handle)
    assert [Path(f"{record}.damaged-{n}").read_text() for n in (1, 2, 3)] == ["damaged 0", "damaged 1", "damaged 2"]


async def test_a_run_dir_that_vanished_is_gone(launcher, tmp_path):
    spec = make_spec(tmp_path / "e/a1", "true")
    handle = await launcher.submit(spec)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    Path(spec.run_dir).rename(tmp_path / "moved")
    assert (await see(launcher, spec, handle)).status == "gone"


async def test_a_record_behind_a_failing_disk_is_unreachable(launcher, tmp_path, monkeypatch):
    spec = make_spec(tmp_path / "e/a1", "true")
    handle = await launcher.submit(spec)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)

    def fail(run_dir, token):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(local, "take_record", fail)
        assert (await see(launcher, spec, handle)).status == "unreachable"
    assert (await see(launcher, spec, handle)).exit_code == 0


def test_slots_are_the_cpus_this_process_may_use():
    assert LocalLauncher().slots == len(os.sched_getaffinity(0))
    assert LocalLauncher(3).slots == 3
