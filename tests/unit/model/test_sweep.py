"""Sweeps: which points, in which order, how many."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_campaign.model.sweep import Range, Sweep


def test_a_grid_is_every_combination_in_order() -> None:
    sweep = Sweep.grid(a=[1, 2], b=["x", "y"], seed=range(2))
    assert list(sweep.expand()) == [({"a": a, "b": b}, s) for a in (1, 2) for b in ("x", "y") for s in (0, 1)]
    assert sweep.size() == 8


def test_zip_goes_side_by_side_once_per_seed() -> None:
    sweep = Sweep.zip(a=[1, 2], b=[3, 4], seeds=[7, 8])
    assert list(sweep.expand()) == [
        ({"a": 1, "b": 3}, 7),
        ({"a": 1, "b": 3}, 8),
        ({"a": 2, "b": 4}, 7),
        ({"a": 2, "b": 4}, 8),
    ]
    assert sweep.size() == 4


def test_explicit_points_are_taken_as_they_are() -> None:
    sweep = Sweep.points([{"a": 1, "seed": 5}, {"a": 2, "seed": 6}])
    assert list(sweep.expand()) == [({"a": 1}, 5), ({"a": 2}, 6)]


def test_without_seeds_there_is_one() -> None:
    assert [seed for _, seed in Sweep.grid(a=[1, 2]).expand()] == [0, 0]


def test_single_values_and_ranges_are_axes_too() -> None:
    assert Sweep.grid(a="word", b=range(2)) == Sweep.grid(a=["word"], b=[0, 1])


def test_random_points_are_the_same_for_the_same_draw_seed() -> None:
    space = {"lr": Range(low=1e-5, high=1e-1, log=True), "k": Range(low=1, high=4, integer=True), "opt": ["a", "b"]}

    def draw(seed: int) -> list:
        return list(Sweep.random(20, draw_seed=seed, **space).expand())

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    for point, _ in draw(1):
        assert 1e-5 <= point["lr"] <= 1e-1
        assert point["k"] in (1, 2, 3, 4)
        assert isinstance(point["k"], int)
        assert point["opt"] in ("a", "b")


def test_a_longer_random_sweep_begins_with_the_shorter_one() -> None:
    short = list(Sweep.random(3, lr=Range(low=0, high=1)).expand())
    assert list(Sweep.random(9, lr=Range(low=0, high=1)).expand())[:3] == short


def test_optuna_trials_get_their_parameters_later() -> None:
    sweep = Sweep.optuna(3, lr=Range(low=0, high=1), seeds=[1])
    assert list(sweep.expand()) == [({"trial": i}, 1) for i in range(3)]


def test_what_optuna_searches_has_no_role() -> None:
    sweep = Sweep.optuna(2, method=["a", "b"], lr=Range(low=0, high=1))
    assert sweep.axis_of("method") is None


def test_seeds_may_be_drawn_too() -> None:
    sweep = Sweep.random(5, a=[1, 2], seed=Range(low=0, high=1000, integer=True))
    assert all(isinstance(seed, int) and set(point) == {"a"} for point, seed in sweep.expand())


def test_numpy_values_are_plain_values() -> None:
    sweep = Sweep.grid(lr=np.array([0.5, 1.0]), k=np.arange(2), flag=[np.True_], seed=np.arange(2))
    assert sweep == Sweep.grid(lr=[0.5, 1.0], k=[0, 1], flag=[True], seed=[0, 1])
    assert {type(v) for point, seed in sweep.expand() for v in (*point.values(), seed)} == {float, int, bool}


def test_roles_come_from_names_or_are_given() -> None:
    assert Sweep.grid(method=["a"], dataset=["d"], seed=[0]).axis_of("dataset") == "dataset"
    given = Sweep.grid(algo=["a"], fold=[3], roles={"algo": "method", "fold": "seed"})
    assert given.axis_of("method") == "algo"
    assert given.axis_of("dataset") is None
    assert list(given.expand()) == [({"algo": "a"}, 3)]


def test_an_axis_given_another_role_does_not_keep_its_name_s_role() -> None:
    sweep = Sweep.grid(method=["m"], model=["n"], roles={"method": "dataset", "model": "method"})
    assert (sweep.axis_of("dataset"), sweep.axis_of("method")) == ("method", "model")


@pytest.mark.parametrize("seed", [True, "1", 1.0, 1.5])
def test_a_seed_is_a_whole_number(seed) -> None:
    with pytest.raises(ValueError, match="a seed must be a whole number"):
        list(Sweep.grid(a=[1], seed=[seed]).expand())


@pytest.mark.parametrize(
    "bad",
    [
        {"low": 1, "high": 1},
        {"low": math.nan, "high": 1},
        {"low": 0, "high": math.inf},
        {"low": -math.inf, "high": 0},
        {"low": -1, "high": 1, "log": True},
    ],
)
def test_a_range_is_finite_and_in_order(bad: dict) -> None:
    with pytest.raises(ValidationError):
        Range(**bad)


axes = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True), min_size=1
)


@given(axes=axes, seeds=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))
def test_the_size_is_known_without_building(axes: dict, seeds: list[int]) -> None:
    for sweep in (Sweep(grid=axes, seeds=seeds), Sweep(points=[{"a": i} for i in range(3)], seeds=seeds)):
        expanded = list(sweep.expand())
        assert sweep.size() == len(expanded)
        assert len({(tuple(sorted(p.items())), s) for p, s in expanded}) == len(expanded)
