"""Failures that a fix can cure, through the dispatcher, with processes that really fail."""

import json
from pathlib import Path

import pytest
from contract.engine.lab import Lab, python_campaign, tick_until

from prefect_campaign.ledger import tables as t

HEAD = """
import json, os, sys
def flag(name, otherwise=None):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else otherwise
def report(**values):
    with open(os.environ["CAMPAIGN_RUN_DIR"] + "/metrics.jsonl", "a") as file:
        file.write(json.dumps(values) + "\\n")
"""
GPU = f"""{HEAD}
class OutOfMemoryError(RuntimeError):
    pass
OutOfMemoryError.__module__ = "torch"
batch, accum = int(flag("--batch-size")), int(flag("--grad-accum", 1))
if batch > 16:
    raise OutOfMemoryError(f"CUDA out of memory. Tried to allocate {{batch}}.00 MiB.")
report(acc=batch * accum)
"""
DIVERGE = f"""{HEAD}
rate, clip = float(flag("--lr")), float(flag("--clip", 0))
x = 1.0
for step in range(2000):
    gradient = 2 * x
    if 0 < clip < abs(gradient):
        gradient = clip if gradient > 0 else -clip
    x -= rate * gradient
    loss = x * x
report(loss=loss, step=step)
if loss != loss:
    raise FloatingPointError(f"loss is nan at step {{step}}")
report(acc=rate)
"""
HUNGRY = f"""{HEAD}
import resource
resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
fraction = float(flag("--data-fraction"))
data = bytearray(int((600 << 20) * fraction))
report(acc=fraction)
"""


def told(lab: Lab) -> list[tuple[str, str]]:
    """Signature and fix of every attempt."""
    return [(r["signature"], r["fix"]) for r in lab.rows(t.attempts)]


async def test_out_of_gpu_memory_with_accumulation_stays_comparable(tmp_path: Path) -> None:
    command = "--batch-size {x} --grad-accum 1"
    lab = await Lab(python_campaign(tmp_path, GPU, command, points=[64])).run()
    lab.settled()
    view = lab.only
    assert (view.state, view.attempt, view.objective_value) == ("done", 3, 64.0)
    assert view.comparable
    assert view.changes == (
        "batch_size 64 -> 32, grad_accum 1 -> 2",
        "batch_size 32 -> 16, grad_accum 2 -> 4",
    )
    assert told(lab) == [("cuda_oom", view.changes[0]), ("cuda_oom", view.changes[1]), (None, "")]
    assert json.loads(view.command)[-4:] == ["--batch-size", "16", "--grad-accum", "4"]


async def test_out_of_gpu_memory_without_accumulation_is_not_comparable(tmp_path: Path) -> None:
    lab = await Lab(python_campaign(tmp_path, GPU, "--batch-size {x}", points=[32, 8])).run()
    healed, untouched = lab.views
    assert (healed.state, healed.attempt, healed.comparable) == ("done", 2, False)
    assert healed.changes == ("batch_size 32 -> 16",)
    assert (untouched.state, untouched.attempt, untouched.comparable, untouched.changes) == ("done", 1, True, ())


async def test_a_mapped_flag_is_added_where_the_script_has_it(tmp_path: Path) -> None:
    policy = {"flags": {"grad_accum": "--grad-accum"}}
    lab = await Lab(python_campaign(tmp_path, GPU, "--batch-size {x}", points=[32], policy=policy)).run()
    assert (lab.only.state, lab.only.comparable, lab.only.objective_value) == ("done", True, 32.0)
    assert lab.only.changes == ("batch_size 32 -> 16, grad_accum unset -> 2",)


async def test_a_diverging_loss_gets_a_smaller_rate(tmp_path: Path) -> None:
    lab = await Lab(python_campaign(tmp_path, DIVERGE, "--lr {x}", points=[2.0])).run()
    lab.settled()
    assert (lab.only.state, lab.only.attempt, lab.only.objective_value) == ("done", 2, 0.2)
    assert (lab.only.comparable, lab.only.changes) == (False, ("learning_rate 2.0 -> 0.2",))
    assert [s for s, _ in told(lab)] == ["nan_loss", None]


async def test_out_of_host_memory_gets_less_data(tmp_path: Path) -> None:
    lab = await Lab(python_campaign(tmp_path, HUNGRY, "--data-fraction {x}", points=[1.0])).run()
    lab.settled()
    assert (lab.only.state, lab.only.attempt, lab.only.objective_value) == ("done", 3, 0.25)
    assert lab.only.changes == ("data_fraction 1.0 -> 0.5", "data_fraction 0.5 -> 0.25")
    assert not lab.only.comparable
    assert [s for s, _ in told(lab)] == ["host_oom", "host_oom", None]


async def test_when_nothing_is_left_to_change_it_fails_and_says_so(tmp_path: Path) -> None:
    script = GPU.replace("batch > 16", "True")
    lab = await Lab(
        python_campaign(tmp_path, script, "--batch-size {x}", points=[2], policy={"pilot_retries": 9})
    ).run()
    lab.settled()
    assert (lab.only.state, lab.only.attempt, lab.only.signature) == ("failed", 2, "cuda_oom")
    assert "nothing further to change" in lab.only.reason


async def test_fixes_survive_a_new_dispatcher(tmp_path: Path) -> None:
    spec = python_campaign(tmp_path, GPU, "--batch-size {x}", points=[64], policy={"retry_delay_seconds": 0.2})
    lab = Lab(spec)
    for _ in range(3):
        async with lab.open() as dispatcher:
            await dispatcher.adopt()
            ended = len(lab.ends)
            dispatcher.ends.on_end = lab.ends.append
            await tick_until(dispatcher, lambda before=ended: len(lab.ends) > before)
    assert (lab.only.state, lab.only.objective_value) == ("done", 16.0)
    assert lab.only.changes == ("batch_size 64 -> 32", "batch_size 32 -> 16")


@pytest.mark.parametrize("flag", ["--batch-size=64", "--batch_size 64", "-b 64"])
async def test_a_script_that_spells_it_otherwise_is_healed_all_the_same(tmp_path: Path, flag: str) -> None:
    script = GPU.replace('int(flag("--batch-size"))', 'int(sys.argv[1].partition("=")[2] or sys.argv[2])')
    lab = await Lab(python_campaign(tmp_path, script, flag, points=[1])).run()
    assert (lab.only.state, lab.only.objective_value) == ("done", 16.0)
