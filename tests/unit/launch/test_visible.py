"""Every form of CUDA_VISIBLE_DEVICES."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_campaign.launch.gpus.visible import (
    reserved_uuids,
    usable,
    visible_uuids,
    visible_value,
    with_reserve_checked,
)
from prefect_campaign.model.devices import Gpu

A, B, C, D = "GPU-aaaa0000-1", "GPU-aaaa1111-2", "GPU-cccc0000-3", "GPU-dddd0000-4"
HOST = [Gpu(uuid, index, name="X", total_mb=1000) for index, uuid in enumerate((A, B, C, D))]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, [A, B, C, D]),
        ("", []),
        ("  ", []),
        ("0", [A]),
        ("2,0", [C, A]),
        (" 0 , 1 ", [A, B]),
        ('"0,1"', [A, B]),
        ("'1'", [B]),
        ("'0','1'", [A, B]),
        ('""', []),
        ("00", [A]),
        (C, [C]),
        (f"{D},{A}", [D, A]),
        (f'"{D}"', [D]),
        ("GPU-c", [C]),
        ("gpu-CCCC", [C]),
        ("GPU-aaaa1", [B]),
        ("GPU-aaaa", []),  # two begin like this
        (f"{C},GPU-aaaa,{D}", [C]),
        ("GPU-eeee", []),
        (A.removeprefix("GPU-"), []),
        ("-1", []),
        ("0,-1,1", [A]),
        ("0,9,1", [A]),
        ("0,x,1", [A]),
        ("0,,1", [A]),
        ("0,1,", [A, B]),
        (",0", []),
        ("NoDevFiles", []),
        ("none", []),
        ("void", []),
        ("all", []),
        ("0 1", []),
        ("1.0", []),
        ("+1", []),
        ("²", []),
        ("٣", []),
        ("99999999999999999999", []),
        ("0,0", []),
        (f"0,{A}", []),
        ("1,2,1,0", []),
        ("MIG-GPU-aaaa0000-1/1/0", []),
        ("MIG-8c4f5ee2-1111-5222-9333-444455556666,1", [B]),
        (f"0,{C}", [A, C]),
    ],
)
def test_what_a_value_shows(value, shown):
    assert list(visible_uuids(value, HOST)) == shown


@given(st.text(st.sampled_from("0123456789,-GPUMIGadc'\" xX"), max_size=30))
def test_any_value_shows_gpus_of_the_host_and_none_twice(value):
    shown = visible_uuids(value, HOST)
    assert len(set(shown)) == len(shown)
    assert set(shown) <= {A, B, C, D}


@given(st.lists(st.sampled_from([A, B, C, D]), unique=True))
def test_what_a_job_gets_shows_it_exactly_these(gpus):
    assert list(visible_uuids(visible_value(gpus), HOST)) == gpus


def test_a_gpu_that_is_not_shown_is_not_usable_and_its_own_problem_stays():
    sick = [HOST[0], replace(HOST[1], problem="MIG is on"), *HOST[2:]]
    found = usable(sick, {"CUDA_VISIBLE_DEVICES": "0"})
    assert [gpu.problem for gpu in found] == [
        "",
        "MIG is on; hidden by CUDA_VISIBLE_DEVICES=0",
        "hidden by CUDA_VISIBLE_DEVICES=0",
        "hidden by CUDA_VISIBLE_DEVICES=0",
    ]


def test_without_the_variable_everything_is_usable_and_with_an_empty_one_nothing():
    assert usable(HOST, {}) == tuple(HOST)
    assert all(gpu.problem == "hidden by CUDA_VISIBLE_DEVICES=" for gpu in usable(HOST, {"CUDA_VISIBLE_DEVICES": ""}))


def test_a_number_of_a_reserved_gpu_means_the_one_that_had_it_first():
    moved = [replace(gpu, index=gpu.index - 1, number=gpu.index) for gpu in HOST[1:]]
    assert reserved_uuids({"1"}, "h1", moved) == {B}


def test_a_gpu_that_told_nothing_at_first_makes_numbers_uncertain_only_as_long():
    env = {"CUDA_VISIBLE_DEVICES": "1"}
    first = [Gpu("unreadable-0", 0, problem="is lost"), *HOST[1:]]
    assert all(g.problem for g in usable(first, env))
    assert [g.uuid for g in usable(HOST, env) if not g.problem] == [B]


MIXED = [replace(HOST[0], name="slow"), *HOST[1:]]


@pytest.mark.parametrize(
    ("gpus", "env", "usable_ones"),
    [
        (MIXED, {"CUDA_VISIBLE_DEVICES": "0"}, []),
        (MIXED, {"CUDA_VISIBLE_DEVICES": f"{B},0"}, []),
        (MIXED, {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, []),
        (MIXED, {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [A]),
        (MIXED, {"CUDA_VISIBLE_DEVICES": B}, [B]),
        (MIXED, {"CUDA_VISIBLE_DEVICES": "3,2,1,0"}, [A, B, C, D]),
        (HOST, {"CUDA_VISIBLE_DEVICES": "0"}, [A]),
    ],
)
def test_numbers_in_an_order_that_is_not_known_show_nothing(gpus, env, usable_ones):
    found = usable(gpus, env)
    assert [gpu.uuid for gpu in found if not gpu.problem] == usable_ones
    if not usable_ones:
        assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in found[0].problem


@pytest.mark.parametrize(
    ("entry", "meant"),
    [
        ("0", [A]),
        (" 1 ", [B]),
        ("h1:2", [C]),
        ("h2:2", []),
        (D, [D]),
        (f"h1:{D}", [D]),
        ("GPU-aaaa", [A, B]),
        ("gpu-DDDD", [D]),
        ("GPU-", []),
        ("G", []),
        ("", []),
        ("-1", []),
        ("4", []),
    ],
)
def test_what_a_reserve_entry_means(entry, meant):
    assert reserved_uuids([entry], "h1", HOST) == set(meant)
    checked = with_reserve_checked(HOST, [entry], 0, "h1")
    assert all(bool(gpu.problem) == (not meant) for gpu in checked)


def test_a_machine_without_gpus_has_nothing_to_check():
    assert with_reserve_checked([], ["0"], 2, "h1") == ()
    assert usable([], {"CUDA_VISIBLE_DEVICES": "0"}) == ()
