"""A launcher that watches for months: what it remembers of jobs that are over does not stay."""

import json
from pathlib import Path

from contract.slurm_world import fake, new, spec_of

from prefect_campaign.launch.fading import KEPT_SECONDS

__all__ = ["fake", "new", "spec_of"]

MANY = 3000


async def test_nothing_is_remembered_of_jobs_that_are_over_and_not_asked_for(fake, new, clock, spec_of):
    fake.configure(slots=0, max_array_size=MANY)
    launcher = new(max_jobs=MANY)
    specs = [spec_of("true", name=f"e{n}") for n in range(MANY)]
    handles = await launcher.submit_all(specs)
    last = await launcher.submit(other := spec_of("true", name="other"))
    clock.advance(100)
    fake.sql("update arrays set purged = 1 where base = 101")
    fake.sql("update tasks set hidden = 1, state = 'CANCELLED' where base = 101")
    pairs = [(spec, handles[spec.token]) for spec in specs]
    observer = launcher._observer
    memories = (observer._doubts, observer.holders, observer.cancelled, launcher._absent)

    assert {one.status for one in (await launcher.observe(pairs)).values()} == {"pending"}
    assert len(observer._doubts) == MANY
    for spec in specs[:1000]:
        record = {"state": "exited", "exit_code": 0, "token": spec.token}
        (Path(spec.run_dir) / "status.json").write_text(json.dumps(record))
    for spec in specs:
        observer.cancelled.set(spec.token, True)
        launcher._absent.set(spec.token, True)
    statuses = [one.status for one in (await launcher.observe(pairs)).values()]
    assert statuses == ["exited"] * 1000 + ["gone"] * (MANY - 1000)
    assert (len(observer._doubts), len(observer.cancelled)) == (MANY - 1000, MANY - 1000)
    # Whoever asks again in a while is told the same.
    clock.advance(KEPT_SECONDS - 1)
    assert [one.status for one in (await launcher.observe(pairs)).values()] == statuses

    clock.advance(KEPT_SECONDS + 1)
    assert (await launcher.observe([(other, last)]))[other.token].status == "pending"
    assert list(map(len, memories)) == [0, 0, 0, 0]
