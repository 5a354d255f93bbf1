"""The peaks of other people's processes."""

from dataclasses import replace

from unit.placement.placement_lab import gpu, host

from prefect_campaign.model.devices import GpuProcess, HostView
from prefect_campaign.placement.peaks import Peaks

KEY = ("h", "GPU-h-0")


def view(*processes: GpuProcess, problem: str = "") -> HostView:
    return replace(host("h"), gpus=(gpu("h", 0, processes=processes),), problem=problem)


def test_a_peak_counts_while_its_process_lives() -> None:
    peaks = Peaks()
    assert peaks.seen([view(GpuProcess(1, 9_000), GpuProcess(2, 100))]) == {}
    assert peaks.seen([view(GpuProcess(1, 2_000), GpuProcess(2, 100))]) == {KEY: 7_000}
    assert peaks.seen([view(GpuProcess(1, 3_000), GpuProcess(2, 50))]) == {KEY: 6_050}
    assert peaks.seen([view(GpuProcess(2, 100))]) == {}
    assert peaks.seen([view(GpuProcess(1, 2_000))]) == {}


def test_ours_are_not_foreign() -> None:
    peaks = Peaks()
    peaks.seen([view(GpuProcess(1, 9_000, run_dir="/r"))])
    assert peaks.seen([view(GpuProcess(1, 2_000, run_dir="/r"))]) == {}


def test_what_cannot_be_read_is_not_gone() -> None:
    peaks = Peaks()
    peaks.seen([view(GpuProcess(1, 9_000))])
    assert peaks.seen([view(problem="unreachable")]) == {}
    assert peaks.seen([replace(host("h"), gpus=(gpu("h", 0, problem="no permission"),))]) == {}
    assert peaks.seen([]) == {}
    assert peaks.seen([view(GpuProcess(1, None))]) == {}
    assert peaks.seen([view(GpuProcess(1, 1_000))]) == {KEY: 8_000}


def test_a_number_that_went_to_another_process_begins_anew() -> None:
    peaks = Peaks()
    peaks.seen([view(GpuProcess(1, 9_000, user="ann", command="python"))])
    assert peaks.seen([view(GpuProcess(1, 100, user="bob", command="python"))]) == {}


def test_each_host_and_gpu_has_its_own() -> None:
    peaks = Peaks()
    other = replace(view(GpuProcess(1, 500)), host="k")
    peaks.seen([view(GpuProcess(1, 9_000)), other])
    assert peaks.seen([view(GpuProcess(1, 8_000)), other]) == {KEY: 1_000}
