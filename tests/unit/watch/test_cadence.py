import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_campaign.watch.cadence import seconds_until_look as look


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ({"pending": 5, "running": 0}, 600),
        ({"pending": 5, "running": 0, "expected_minutes": 240}, 720),
        ({"pending": 5, "running": 0, "expected_minutes": 6000}, 900),
        ({"pending": 0, "running": 1}, 180),
        ({"pending": 9, "running": 1, "expected_minutes": 80}, 240),
        ({"pending": 0, "running": 1, "expected_minutes": 6000}, 300),
        ({"pending": 0, "running": 1, "health": "degraded"}, 60),
        ({"pending": 0, "running": 1, "health": "systemic", "expected_minutes": 6000}, 120),
        ({"pending": 0, "running": 1, "expected_minutes": 10}, 30),
        ({"pending": 0, "running": 1, "expected_minutes": 0.01}, 5),
        ({"pending": 0, "running": 0}, math.inf),
    ],
)
def test_where_ends_must_be_asked_for(asked, seconds):
    assert look(**asked, events=False) == seconds


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ({"pending": 0, "running": 1}, 2),
        ({"pending": 0, "running": 1, "expected_minutes": 1}, 3),
        ({"pending": 0, "running": 1, "expected_minutes": 600}, 30),
        ({"pending": 0, "running": 1, "expected_minutes": 600, "health": "degraded"}, 2),
        ({"pending": 1, "running": 0}, 30),
        ({"pending": 0, "running": 0}, math.inf),
    ],
)
def test_where_ends_are_events(asked, seconds):
    assert look(**asked, events=True) == seconds


@given(
    events=st.booleans(),
    running=st.integers(1, 9),
    expected=st.none() | st.floats(0, 1e6),
)
def test_trouble_is_never_looked_at_less_often(events, running, expected):
    calm, *trouble = (
        look(pending=0, running=running, events=events, expected_minutes=expected, health=health)
        for health in ("healthy", "degraded", "systemic")
    )
    assert 0 < max(trouble) <= calm


@pytest.mark.parametrize(("pending", "running"), [(3, 0), (3, 1)])
def test_a_short_pilot_is_asked_for_often_in_a_queue_too(pending, running):
    assert look(pending=pending, running=running, events=False, expected_minutes=1) == 5
    assert look(pending=pending, running=running, events=False, expected_minutes=20) == 60
