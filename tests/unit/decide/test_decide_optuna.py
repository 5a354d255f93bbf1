import math
from importlib.util import find_spec

import pytest

from prefect_campaign.decide.optuna_search import ask
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.sweep import Range

SPACE = {
    "lr": Range(low=1e-4, high=1e-1, log=True),
    "layers": Range(low=1, high=64, integer=True),
    "kind": ["svm", "tree", 3, True],
}
FLAT = {"x": Range(low=-1, high=1), "y": Range(low=-1, high=1)}


def search(space, sampler, n, objective, mode="max", **more):
    """Ask and tell one after the other."""
    history = []
    for trial in range(n):
        params = ask(space, sampler, 7, history, trial, mode, **more)
        history.append((params, objective(params)))
    return history


def test_values_are_of_the_space():
    for trial in range(20):
        params = ask(SPACE, "TPESampler", 0, [], trial)
        assert list(params) == ["lr", "layers", "kind"]
        assert 1e-4 <= params["lr"] <= 1e-1
        assert isinstance(params["layers"], int)
        assert 1 <= params["layers"] <= 64
        assert params["kind"] in SPACE["kind"]
        assert float(f"{params['lr']:.6g}") == params["lr"]


@pytest.mark.parametrize("sampler", ["TPESampler", "RandomSampler", "NSGAIISampler", "QMCSampler", "BruteForceSampler"])
def test_the_same_question_has_the_same_answer_and_trials_differ(sampler):
    space = {"x": Range(low=0, high=10**4, integer=True)}
    history = [({"x": 10}, 0.5), ({"x": 500}, 0.7), ({"x": 900}, None)]
    answers = [ask(space, sampler, 3, history, trial) for trial in (3, 4, 5)]
    assert answers == [ask(space, sampler, 3, history, trial) for trial in (3, 4, 5)]
    assert len({a["x"] for a in answers}) == 3
    first = [ask(space, sampler, 3, [], trial)["x"] for trial in range(8)]
    assert len(set(first)) == 8, "trials that are asked for at once must differ"


def test_the_seed_matters():
    assert ask(FLAT, "TPESampler", 0, [], 0) != ask(FLAT, "TPESampler", 1, [], 0)
    assert ask(FLAT, "TPESampler", -1, [], 0) == ask(FLAT, "TPESampler", -1, [], 0)


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_tpe_learns_in_the_right_direction(mode, sign):
    history = search(FLAT, "TPESampler", 40, lambda p: -sign * ((p["x"] - 0.5) ** 2 + (p["y"] + 0.5) ** 2), mode)
    distance = [math.hypot(p["x"] - 0.5, p["y"] + 0.5) for p, _ in history]
    assert sum(distance[30:]) < 0.6 * sum(distance[:10])


def test_history_changes_the_answer_and_failed_trials_do_not():
    history = search(FLAT, "TPESampler", 15, lambda p: p["x"])
    learned = ask(FLAT, "TPESampler", 7, history, 20)
    assert learned != ask(FLAT, "TPESampler", 7, [], 20)
    for bad in (None, math.nan, math.inf):
        assert ask(FLAT, "TPESampler", 7, [*history, ({"x": 0.0, "y": 0.0}, bad)], 20) == learned


def test_parameters_outside_the_space_are_ignored():
    history = search(FLAT, "TPESampler", 12, lambda p: p["x"])
    stray = [({"x": 5.0, "y": 0.0}, 99.0), ({"x": 0.1}, 99.0), ({"x": "a", "y": 0.0}, 99.0)]
    assert ask(FLAT, "TPESampler", 7, history + stray, 20) == ask(FLAT, "TPESampler", 7, history, 20)


def test_parameters_besides_the_space_do_no_harm():
    history = search(FLAT, "TPESampler", 12, lambda p: p["x"])
    more = [({**p, "trial": i, "epochs": 3}, v) for i, (p, v) in enumerate(history)]
    assert ask(FLAT, "TPESampler", 7, more, 20) == ask(FLAT, "TPESampler", 7, history, 20)


@pytest.mark.parametrize("parallel", [1, 3, 6])
def test_a_grid_is_covered_once(parallel):
    space = {"a": [1, 2, 3], "b": ["x", "y"]}
    history, asked = [], []
    for start in range(0, 6, parallel):
        batch = [ask(space, "GridSampler", 0, history, t) for t in range(start, start + parallel)]
        asked += batch
        history += [(p, 0.5) for p in reversed(batch)]
    assert len({tuple(p.values()) for p in asked}) == 6
    assert ask(space, "GridSampler", 0, history, 2) == asked[2], "a trial keeps its place when asked for again"


def test_quasi_random_points_spread_evenly():
    history = search({"x": Range(low=0, high=1)}, "QMCSampler", 17, lambda p: p["x"])
    rest = [p["x"] for p, _ in history[1:]]
    assert len({int(x * 8) for x in rest}) == 8


@pytest.mark.parametrize("mode", ["max", "min"])
def test_genetic_search_breeds_from_the_best(mode):
    plain = {"population_size": 4, "mutation_prob": 0.0}
    history = search(FLAT, "NSGAIISampler", 4, lambda p: p["x"])
    history += search(FLAT, "RandomSampler", 4, lambda p: p["x"])
    ranked = sorted(history, key=lambda h: h[1], reverse=mode == "max")
    parents = [p for p, _ in ranked[:4]]
    for trial in range(8, 14):
        child = ask(FLAT, "NSGAIISampler", 7, history, trial, mode, sampler_args=plain)
        assert child["x"] in {p["x"] for p in parents}
        assert child["y"] in {p["y"] for p in parents}


@pytest.mark.skipif(find_spec("cmaes") is not None, reason="the package is installed")
def test_a_missing_package_is_named():
    history = search(FLAT, "RandomSampler", 3, lambda p: p["x"])
    with pytest.raises(Refused, match=r"CmaEsSampler needs another package: .*cmaes"):
        ask(FLAT, "CmaEsSampler", 0, history, 3)


def test_sampler_arguments_are_passed_on():
    history = search(FLAT, "TPESampler", 8, lambda p: p["x"])
    early = ask(FLAT, "TPESampler", 7, history, 8, sampler_args={"n_startup_trials": 2})
    assert early != ask(FLAT, "TPESampler", 7, history, 8)


def test_an_unknown_sampler_is_refused_with_a_hint():
    with pytest.raises(Refused, match=r"sweep\.optuna\.sampler: 'TPESampler2' .* did you mean TPESampler"):
        ask(FLAT, "TPESampler2", 0, [], 0)
    for name in ("os.system", "BaseSampler", "nsgaii", "", "__name__"):
        with pytest.raises(Refused, match=r"sweep\.optuna\.sampler"):
            ask(FLAT, name, 0, [], 0)


def test_wrong_arguments_are_refused():
    with pytest.raises(Refused, match=r"sweep\.optuna\.sampler_args: TPESampler"):
        ask(FLAT, "TPESampler", 0, [], 0, sampler_args={"nonsense": 1})
    with pytest.raises(Refused, match="PartialFixedSampler"):
        ask(FLAT, "PartialFixedSampler", 0, [], 0)


def test_what_a_sampler_cannot_search_is_refused():
    with pytest.raises(Refused, match="GridSampler needs a list"):
        ask(FLAT, "GridSampler", 0, [], 0)
    with pytest.raises(Refused, match=r"sweep\.optuna\.space"):
        ask({"n": Range(low=0.5, high=8, log=True, integer=True)}, "TPESampler", 0, [], 0)


def test_rounding_stays_inside_the_range():
    low, high = 0.12345671, 0.12345674
    for trial in range(5):
        assert low <= ask({"x": Range(low=low, high=high)}, "RandomSampler", 0, [], trial)["x"] <= high
