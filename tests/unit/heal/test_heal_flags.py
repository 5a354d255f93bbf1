"""Knobs on command lines: every spelling found and rewritten, nothing else touched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_campaign.heal.flags import KNOBS, format_number, get_knob, set_knob

HEAD = ("python", "train.py")


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (("--batch-size", "64"), ("--batch-size", "32")),
        (("--batch-size=64",), ("--batch-size=32",)),
        (("--batch_size", "64"), ("--batch_size", "32")),
        (("--batch_size=64",), ("--batch_size=32",)),
        (("-b", "64"), ("-b", "32")),
        (("-b=64",), ("-b=32",)),
        (("-bs", "64"), ("-bs", "32")),
        (("batch_size=64",), ("batch_size=32",)),
        (("train.batch_size=64",), ("train.batch_size=32",)),
        (("+batch_size=64",), ("+batch_size=32",)),
        (("++data.train.batch_size=64",), ("++data.train.batch_size=32",)),
        (("--data.batch_size", "64"), ("--data.batch_size", "32")),
        (("--per_device_train_batch_size", "64"), ("--per_device_train_batch_size", "32")),
        # the last one counts, as it does for argparse
        (("--batch-size", "128", "--batch-size", "64"), ("--batch-size", "128", "--batch-size", "32")),
        # the micro batch is what fits into memory
        (("--train-batch-size=512", "--micro-batch-size=64"), ("--train-batch-size=512", "--micro-batch-size=32")),
        (("--eval-batch-size=8", "eval.batch_size=9", "batch_size=64"),
         ("--eval-batch-size=8", "eval.batch_size=9", "batch_size=32")),
        (("--batch-size", "64", "--name", "batch_size=8"), ("--batch-size", "32", "--name", "batch_size=8")),
    ],
)  # fmt: skip
def test_every_form_is_found_and_rewritten(words: tuple[str, ...], changed: tuple[str, ...]) -> None:
    argv = (*HEAD, *words, "--seed", "0")
    assert get_knob(argv, "batch_size", {}) == 64
    assert set_knob(argv, "batch_size", 32, {}) == (*HEAD, *changed, "--seed", "0")


@pytest.mark.parametrize(
    "argv",
    [
        ("batch_size=64", "x"),  # the program itself
        (*HEAD, "--beta", "64"),
        (*HEAD, "-b64"),
        (*HEAD, "-c", "--batch-size 64"),
        ("python", "-b", "train.py"),
        (*HEAD, "--batch-size"),
        (*HEAD, "--batch-size", "auto"),
        (*HEAD, "--batch-size", "nan"),
        (*HEAD, "--batch-size=1e999"),
        (*HEAD, "--batch-size", ""),
        (*HEAD, "--batch-size", "٣"),
        (*HEAD, "batch_size=64,128"),
        (*HEAD, "--no-batch-size", "64"),
        (*HEAD, "--note", "batch_size=64"),
        (*HEAD, "--run-name", "batch_size=64"),
        (*HEAD, "--out", "runs/batch_size=64"),
        (*HEAD, "val.batch_size=64"),
        ("python",),
        (),
    ],
)
def test_what_only_looks_like_it_is_left_alone(argv: tuple[str, ...]) -> None:
    assert get_knob(argv, "batch_size", {}) is None
    assert set_knob(argv, "batch_size", 32, {}) is None


def test_a_flag_is_added_only_where_the_campaign_names_it() -> None:
    argv = (*HEAD, "--seed", "0")
    assert set_knob(argv, "grad_clip", 1.0, {}) is None
    assert set_knob(argv, "grad_clip", 1.0, {"grad_clip": "--clip"}) == (*argv, "--clip", "1.0")
    assert set_knob(argv, "grad_clip", 1.0, {"grad_clip": "--clip="}) == (*argv, "--clip=1.0")
    assert set_knob(argv, "grad_clip", 1.0, {"grad_clip": "+train.clip"}) == (*argv, "+train.clip=1.0")
    assert set_knob((*argv, "--clip", "off"), "grad_clip", 1.0, {"grad_clip": "--clip"}) is None


def test_the_mapping_is_the_only_name_of_a_mapped_knob() -> None:
    argv = (*HEAD, "--batch-size", "64", "--mb", "8", "mb=3")
    assert get_knob(argv, "batch_size", {"batch_size": "--mb"}) == 8
    assert set_knob(argv, "batch_size", 4, {"batch_size": "--mb"}) == (*HEAD, "--batch-size", "64", "--mb", "4", "mb=3")
    assert get_knob(argv, "batch_size", {"batch_size": "mb"}) == 3
    assert get_knob(argv, "batch_size", {"batch_size": ""}) is None
    assert set_knob(argv, "batch_size", 4, {"batch_size": ""}) is None
    assert get_knob((*HEAD, "--rate", "0.1"), "learning_rate", {"lr": "--rate"}) == 0.1


@pytest.mark.parametrize(
    ("value", "text"),
    [(32, "32"), (0.0001, "0.0001"), (0.001 / 10, "0.0001"), (0.0007 / 10, "7e-05"), (1.0, "1.0")],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert format_number(value) == text


def test_whole_numbers_stay_whole_and_others_do_not() -> None:
    assert isinstance(get_knob((*HEAD, "--lr", "1"), "learning_rate", {}), int)
    assert get_knob((*HEAD, "-lr", "1e-3"), "learning_rate", {}) == 0.001
    assert get_knob((*HEAD, "optimizer.lr=.5"), "learning_rate", {}) == 0.5


@given(
    st.lists(st.text(max_size=12) | st.sampled_from(["--lr", "-b", "lr=1", "--batch-size=2", "7", "--"]), max_size=8)
)
def test_setting_changes_one_word_and_is_read_back(words: list[str]) -> None:
    for knob in KNOBS:
        old = get_knob(words, knob, {})
        changed = set_knob(words, knob, 5, {})
        assert (old is None) == (changed is None)
        if changed is not None:
            assert get_knob(changed, knob, {}) == 5
            assert len(changed) == len(words)
            assert sum(a != b for a, b in zip(changed, words, strict=True)) <= 1
            assert changed[0] == words[0]
