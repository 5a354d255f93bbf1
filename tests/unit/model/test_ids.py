"""Stable, safe and unique names."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prefect_campaign.model.ids import EXP_ID_MAX, NAME_PATTERN, TOKEN_MAX, digest, exp_id, slug, token

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
scalars = st.one_of(st.text(max_size=12), st.integers(), st.booleans(), st.floats(allow_nan=False))
names = st.from_regex(NAME_PATTERN, fullmatch=True)
exp_ids = st.from_regex(r"[A-Za-z0-9._+-]{1,80}", fullmatch=True)


def name_of(params: dict, *, method="m", dataset=None, group="main", seed=0, prefix="") -> str:
    return exp_id(prefix=prefix, method=method, dataset=dataset, group=group, params=params, seed=seed)


def test_ids_read_like_what_they_run() -> None:
    assert name_of({}, method="svm", dataset="digits") == "svm_digits_main_s0"
    assert name_of({"lr": 0.1}, method="svm", prefix="p1", seed=3) == "p1_svm_main_lr0.1_s3"


@given(params=st.dictionaries(st.text(max_size=8), scalars, max_size=5), method=scalars, seed=st.integers())
def test_an_id_is_safe_short_and_stable(params: dict, method, seed: int) -> None:
    first = name_of(params, method=str(method), seed=seed)
    assert SAFE.fullmatch(first)
    assert len(first) <= EXP_ID_MAX
    assert first == name_of(dict(reversed(params.items())), method=str(method), seed=seed)


@given(keys=st.lists(st.from_regex("[a-z_]{1,6}", fullmatch=True), min_size=1, max_size=4, unique=True), data=st.data())
def test_another_parameter_is_another_id(keys: list[str], data: st.DataObject) -> None:
    # All points of a sweep name the same parameters, so only values differ.
    one, two = ({k: data.draw(scalars) for k in keys} for _ in range(2))
    assume(any(str(one[k]) != str(two[k]) for k in keys))
    assert name_of(one) != name_of(two)


@given(one=st.text(max_size=60), two=st.text(max_size=60))
def test_another_method_dataset_or_group_is_another_id(one: str, two: str) -> None:
    assume(one != two)
    assert name_of({}, method=one) != name_of({}, method=two)
    assert name_of({}, dataset=one) != name_of({}, dataset=two)


def test_seed_and_stage_are_part_of_the_id() -> None:
    made = {name_of({}, seed=seed, prefix=prefix) for seed in (-1, 0, 1, 10) for prefix in ("", "p1", "p2")}
    assert len(made) == 12


@pytest.mark.parametrize("value", ["a/b", "../..", "a b", "ümläut", "", "a\nb", "-rf", ".hidden", "x" * 300, "🙂"])
def test_hostile_values_give_safe_ids(value: str) -> None:
    made = [name_of({"p": value}), name_of({}, method=value), name_of({}, group=value)]
    assert all(SAFE.fullmatch(m) and len(m) <= EXP_ID_MAX for m in made)
    assert SAFE.fullmatch(slug(value))


def test_a_digest_does_not_depend_on_the_order_of_keys_but_on_every_value() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert digest(1) != digest("1")


def test_a_short_token_is_readable() -> None:
    assert token("digits", 1, "svm_main_s0", 2) == "pc-digits-svm_main_s0-a2"
    assert token("digits", 2, "svm_main_s0", 1) == "pc-digits.r2-svm_main_s0-a1"
    assert token("my-digits", 1, "svm_main_lr1e-05_s0", 1) == "pc-my-digits--svm_main_lr1e-05_s0-a1"


@given(campaign=names, round_=st.integers(1, 999), experiment=exp_ids, attempt=st.integers(1, 9999))
def test_a_token_fits_everywhere(campaign: str, round_: int, experiment: str, attempt: int) -> None:
    made = token(campaign, round_, experiment, attempt)
    assert len(made) <= TOKEN_MAX
    assert re.fullmatch(rf"pc-[A-Za-z0-9._-]*-a{attempt}", made)
    assert made == token(campaign, round_, experiment, attempt)


attempts = st.tuples(names, st.integers(1, 20), exp_ids, st.integers(1, 20))


@given(one=attempts, two=attempts)
def test_tokens_of_different_attempts_differ(one: tuple, two: tuple) -> None:
    assume(one != two)
    assert token(*one) != token(*two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("a-b", 1, "c", 1), ("a", 1, "b-c", 1)),
        (("a", 2, "c", 1), ("a.r2", 1, "c", 1)),
        (("a-b", 1, "c", 1), ("a", 1, "b--c", 1)),
        (("a-", 1, "c", 1), ("a", 1, "-c", 1)),
        (("a", 1, "b+c", 1), ("a", 1, "b-c", 1)),
        (("x" * 40, 1, "y" * 80, 1), ("x" * 40, 1, "y" * 79 + "z", 1)),
        (("x" * 40, 1, "y" * 80, 1), ("x" * 40, 1, "y" * 80, 2)),
        (("x" * 40, 1, "y" * 80, 1), ("x" * 40, 2, "y" * 80, 1)),
    ],
)
def test_look_alikes_have_tokens_of_their_own(one: tuple, two: tuple) -> None:
    # Tokens are unique over the whole machine: job names and the ledger know nothing of campaigns.
    assert token(*one) != token(*two)
