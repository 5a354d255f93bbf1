import math

import pytest

from prefect_campaign.decide.iterate import after_pivot, should_stop


def test_the_first_iteration_may_be_followed_whatever_it_gained():
    assert after_pivot(1, [None]).allowed
    assert after_pivot(1, []).allowed


@pytest.mark.parametrize("gain", [0.01, 0.05, 0.57 - 0.56])
def test_a_gain_allows_a_third(gain):
    assert after_pivot(2, [None, gain]).allowed


@pytest.mark.parametrize("gain", [0.009, 0.0, -0.5, None, math.nan, math.inf])
def test_after_the_second_without_gain_only_the_user_goes_on(gain):
    found = after_pivot(2, [0.3, gain])
    assert not found.allowed
    assert found.overridable
    assert "roll back" in found.advice


def test_the_limit_is_final():
    found = after_pivot(3, [None, 0.5, 0.5])
    assert not found.allowed
    assert not found.overridable
    assert after_pivot(3, [None, 0.5, 0.5], limit=4).allowed


@pytest.mark.parametrize(("mode", "values"), [("max", [0.5, 0.91]), ("min", [0.99, 0.85])])
def test_target_reached(mode, values):
    found = should_stop(values, 0.9, mode)
    assert found.stop
    assert "iteration 2" in found.reason


def test_target_not_reached():
    assert not should_stop([0.5, 0.89], 0.9).stop
    assert not should_stop([0.95], 0.9, "min").stop
    assert not should_stop([math.nan, math.inf], 0.9).stop
    assert not should_stop([0.5], None).stop
    assert not should_stop([0.5], math.nan).stop


@pytest.mark.parametrize(
    ("values", "stops", "advises"),
    [
        ([], False, False),
        ([0.5], False, False),
        ([0.5, 0.4], False, False),
        ([0.5, 0.4, 0.5], False, True),
        ([0.5, 0.4, 0.3, None], True, True),
        ([0.5, 0.4, 0.3, 0.6], False, False),
        ([None, math.nan, None], True, True),
        ([0.5, math.inf, 0.4], False, True),
    ],
)
def test_patience(values, stops, advises):
    found = should_stop(values, None)
    assert found.stop is stops
    assert bool(found.advice) is advises


def test_the_advice_names_the_best():
    assert "iteration 2 (0.8)" in should_stop([0.5, 0.8, 0.7, 0.6], None).advice
    assert "iteration 1 (0.5)" in should_stop([0.5, 0.8, 0.7], None, "min").advice
    assert "the start" in should_stop([None, None], None).advice
