"""How much of a GPU's memory is an attempt's."""

import pytest

from prefect_campaign.engine.memory import memory_of
from prefect_campaign.model.devices import Gpu, GpuProcess

OURS = "/home/ada/.prefect-campaign/campaigns/lab/runs/x/a1"


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (Gpu("a", 0), None),
        (Gpu("a", 0, used_mb=700, processes=(GpuProcess(1, None, run_dir=OURS),)), 700),
        (Gpu("a", 0, used_mb=700, processes=(GpuProcess(1, None, run_dir=OURS), GpuProcess(2, 9))), None),
        (Gpu("a", 0, used_mb=700, processes=(GpuProcess(1, 5, run_dir=OURS), GpuProcess(2, 9))), 5),
        (Gpu("a", 0, processes=(GpuProcess(1, 5, run_dir=OURS), GpuProcess(2, 9, run_dir="/far" + OURS))), 5),
        (Gpu("a", 0, processes=(GpuProcess(1, 5, run_dir=OURS[:-1] + "2"),)), None),
        (Gpu("a", 0, used_mb=300, processes=(GpuProcess(1, None, run_dir=OURS), GpuProcess(2, 9, graphics=True))), 300),
    ],
)
def test_memory_of_an_attempt_on_a_gpu(gpu: Gpu, expected: int | None) -> None:
    assert memory_of(gpu, OURS) == expected
