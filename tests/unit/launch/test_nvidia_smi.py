"""nvidia-smi's XML: whole, of several driver versions, broken, cut off and hostile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smi import HEAD, NEW_ECC, OLD_ECC, PROCESS, TAIL, gpu, log

from prefect_campaign.launch.gpus.nvidia_smi import read_nvidia_smi


def only(text: str, code: int = 0):
    reading = read_nvidia_smi(text, code)
    assert reading.problem == ""
    (found,) = reading.gpus
    return found


def test_all_that_is_told():
    text = log(
        gpu(processes=PROCESS.format(pid=123, type="C", name="/opt/venv/bin/python3.11", used="900 MiB")), gpu(1)
    )
    reading = read_nvidia_smi(text)
    assert (reading.driver, reading.cuda, reading.problem) == ("550.54.15", "12.4", "")
    one, two = reading.gpus
    assert (one.uuid, one.index, one.name) == ("GPU-00000000-1111-2222-3333-444444444444", 0, "NVIDIA GeForce RTX 4090")
    assert (one.total_mb, one.free_mb, one.used_mb) == (24564, 23183, 1381)
    assert (one.utilisation, one.temperature, one.ecc_errors, one.mig, one.problem) == (13, 41, None, False, "")
    (process,) = one.processes
    assert (process.pid, process.used_mb, process.command, process.graphics) == (123, 900, "python3.11", False)
    assert (two.index, two.processes) == (1, ())


def test_an_old_driver_without_reserved_and_free_memory():
    found = only(log(gpu(free="N/A", reserved="N/A", used="4 MiB")))
    assert (found.used_mb, found.problem) == (4, "")


@pytest.mark.parametrize(("type_", "graphics"), [("C", False), ("C+G", False), ("G", True), ("M+C", False)])
def test_what_only_draws_is_told_apart(type_, graphics):
    found = only(log(gpu(processes=PROCESS.format(pid=1, type=type_, name="Xorg", used="4 MiB"))))
    assert found.processes[0].graphics is graphics


@pytest.mark.parametrize("used", ["N/A", "[N/A]", "Not available in WDDM driver model", "Insufficient Permissions", ""])
def test_a_process_whose_memory_is_not_told_is_there_all_the_same(used):
    found = only(log(gpu(processes=PROCESS.format(pid=7, type="C", name="x", used=used))))
    assert [(p.pid, p.used_mb) for p in found.processes] == [(7, None)]
    assert found.problem == ""


@pytest.mark.parametrize("ecc", [NEW_ECC, OLD_ECC])
def test_uncorrected_errors_since_the_driver_was_loaded_are_a_problem(ecc):
    assert (only(log(gpu(ecc=ecc.format(n=0)))).ecc_errors, only(log(gpu(ecc=ecc.format(n=0)))).problem) == (0, "")
    bad = only(log(gpu(ecc=ecc.format(n=3))))
    assert bad.ecc_errors == 3
    assert "3 uncorrected memory errors" in bad.problem


UNREADABLE = [
    "N/A",
    "[N/A]",
    "[Unknown Error]",
    "Unknown Error",
    "ERR!",
    "Insufficient Permissions",
    "",
    "-5 MiB",
    "many",
]


@pytest.mark.parametrize("value", UNREADABLE)
def test_a_gpu_whose_memory_cannot_be_read_is_not_free(value):
    reading = read_nvidia_smi(log(gpu(0, total=value, used=value, free=value, reserved=value), gpu(1)))
    assert "memory cannot be read" in reading.gpus[0].problem
    assert reading.gpus[0].free_mb == 0
    assert reading.gpus[1].problem == ""


def test_a_gpu_that_tells_more_free_than_it_has_is_not_free():
    assert "nonsense of its memory" in only(log(gpu(total="24576 MiB", free="30000 MiB"))).problem


@pytest.mark.parametrize("value", UNREADABLE)
def test_values_that_do_not_decide_may_be_unknown(value):
    found = only(log(gpu(gpu_util=value, gpu_temp=value, product_name="")))
    assert (found.utilisation, found.temperature, found.name, found.problem) == (None, None, "?", "")


def test_mig_no_identity_and_prohibited_computing_are_problems():
    reading = read_nvidia_smi(
        log(gpu(0, mig="Enabled", total="N/A", free="N/A", used="N/A"), gpu(1, uuid="ERR!"), gpu(2, mode="Prohibited"))
    )
    mig, lost, prohibited = reading.gpus
    assert mig.mig
    assert mig.problem.startswith("MIG is on")
    assert "UUID" in lost.problem
    assert lost.uuid == "unreadable-1"
    assert "Prohibited" in prohibited.problem


def test_a_process_list_that_cannot_be_read_is_a_problem():
    assert "process list" in only(log(gpu(processes="Insufficient Permissions"))).problem
    assert only(log(gpu(processes="N/A"))).problem == ""


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550\n", 18, "mismatch"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9, "communicate"),
        ("", 124, "nvidia-smi does not answer"),
        ("", 137, "a reboot may be needed"),
        ("", 1, "nothing"),
        ("bash: nvidia-smi: Input/output error", 126, "Input/output error"),
        ("\x1b[31mred\x00", 1, "[31mred"),
    ],
)
def test_a_driver_that_does_not_answer_is_the_hosts_problem(said, code, told):
    reading = read_nvidia_smi(said, code)
    assert reading.gpus == ()
    assert reading.problem.startswith("GPUs cannot be read")
    assert told in reading.problem
    assert f"({code})" in reading.problem
    assert reading.problem.isprintable()


def test_no_devices_is_no_problem():
    for reading in (read_nvidia_smi("No devices were found\n", 6), read_nvidia_smi(log())):
        assert (reading.gpus, reading.problem) == ((), "")


def test_a_lost_gpu_beside_good_ones_is_reported():
    lost = "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system\n"
    reading = read_nvidia_smi(lost + log(gpu(0)), 15)
    assert [bool(g.problem) for g in reading.gpus] == [False, True]
    assert "GPU is lost" in reading.gpus[1].problem
    assert read_nvidia_smi(log(gpu(0)) + lost, 15).gpus[1].problem == reading.gpus[1].problem


def test_whatever_is_cut_off_the_gpus_before_it_count_and_none_is_made_up():
    text = log(gpu(0), gpu(1))
    whole = read_nvidia_smi(text).gpus
    for end in range(0, len(text) - len(TAIL), 7):
        reading = read_nvidia_smi(text[:end])
        good = [g for g in reading.gpus if not g.problem]
        assert good == list(whole[: len(good)])
        assert reading.problem or len(reading.gpus) == len(good) + 1


def test_entities_are_not_expanded_and_nothing_is_loaded():
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
    for text in (log(gpu()).replace("<nvidia_smi_log>", f"{bomb}<nvidia_smi_log>"), f"{bomb}{log(gpu())}"):
        assert only(text).problem == ""
    inside = log(gpu(product_name="&a;"))
    assert all(g.problem or g.name == "?" for g in read_nvidia_smi(inside).gpus)
    after = log(gpu()).replace("<nvidia_smi_log>", f"<nvidia_smi_log>{bomb}")
    assert read_nvidia_smi(after).problem


@given(st.text(), st.integers(0, 255))
def test_any_text_is_survived(text, code):
    for said in (text, HEAD.format(count=1) + text, log(gpu()) + text, log(gpu(product_name="x")).replace("x", text)):
        reading = read_nvidia_smi(said, code)
        assert all(g.used_mb >= 0 for g in reading.gpus)
        assert "\n" not in reading.problem


def test_very_deep_and_very_long_numbers_are_survived():
    read_nvidia_smi("<nvidia_smi_log>" + "<gpu>" * 100_000)
    found = read_nvidia_smi(log(gpu(total="9" * 5000 + " MiB"))).gpus[0]
    assert "memory" in found.problem
