"""`campaign alerts`, `campaign answer`, and the alerts in `campaign status`."""

import json
import shlex
from typing import Any

import pytest
from typer.testing import CliRunner
from unit.alert_lab import PILOT, answer_on_record, ask, launching, settle, tell

from prefect_campaign.cli.alerts import age
from prefect_campaign.cli.main import app, main
from prefect_campaign.engine.process import own_identity
from prefect_campaign.engine.setting import Setting
from prefect_campaign.ledger import campaigns
from prefect_campaign.ledger.location import Home


@pytest.fixture
def setting(home: Home) -> Setting:
    return launching()


@pytest.fixture(params=["80", "140"])
def width(request: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", request.param)
    return int(request.param)


def said(*words: str) -> str:
    done = CliRunner().invoke(app, [*words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """The one line that is said of a bad command, which exits with 2."""
    monkeypatch.setattr("sys.argv", ["campaign", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_waits_is_shown_first_at_every_width(setting: Setting, width: int) -> None:
    tell(setting)
    ask(setting)
    lines = said("alerts").splitlines()
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "\x1b" not in text
    assert text.index("eve's") < text.index("loss was not finite")
    assert "1 Continue anyway   2 Pick another GPU   3 Stop" in text
    assert "12 min" in text
    assert "[bold]" in text
    assert "stopped; asks nothing" in text
    assert said("alerts", "demo").splitlines()[:3] == lines[:3]


def test_what_was_done_is_shown(setting: Setting, width: int) -> None:
    number = ask(setting)
    said("answer", str(number), "stop", "--by", "\x1b[2Jann\n")
    assert "Stop by [2Jann; not in effect yet" in said("alerts")
    said("answer", str(number), "stop", "--by", "ann")
    assert "Stop by ann; not in effect yet" in said("alerts")
    settle(setting, "stop")
    told = said("alerts")
    assert "Stop by ann: stopped" in told
    assert "answer by" not in told


def test_many_old_ones_are_counted(setting: Setting) -> None:
    for attempt in range(1, 41):
        tell(setting, attempt=attempt)
    assert "and 10 older ones" in said("alerts")
    assert len(json.loads(said("alerts", "--json"))) == 40


def test_json_has_fixed_keys(setting: Setting) -> None:
    assert json.loads(said("alerts", "--json")) == []
    assert "no alerts" in said("alerts")
    ask(setting)
    (one,) = json.loads(said("alerts", "demo", "--json"))
    keys = "id campaign round exp_id attempt severity syndrome since message choices answer answered_by effect state"
    assert list(one) == keys.split()
    assert (one["exp_id"], one["choices"][1], one["state"]) == (PILOT, "Pick another GPU", "open")


def test_status_says_the_exact_command(setting: Setting) -> None:
    number = ask(setting)
    lines = said("status", "demo").splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith(f"alert {number} (12 min): {PILOT} attempt 1 waits")]
    commands = lines[at + 1].split(" | ")
    assert [shlex.split(c)[-1] for c in commands] == ["Continue anyway", "Pick another GPU", "Stop"]
    assert "Pick another GPU by" in said(*shlex.split(commands[0])[1:-1], shlex.split(commands[1])[0], "--by", "ann")
    assert "Pick another GPU by ann; not in effect yet" in said("status", "demo")
    settle(setting, "elsewhere")
    assert f"alert {number}" not in said("status", "demo")


@pytest.mark.parametrize("driven", [True, False])
def test_an_answer_says_when_it_takes_effect(setting: Setting, driven: bool) -> None:
    number = ask(setting)
    if driven:
        with setting.ledger.write() as connection:
            campaigns.acquire(
                connection,
                setting.row.id,
                owner=own_identity(),
                now=setting.ledger.clock(),
                ttl=60,
                alive=lambda owner: True,
                plan_hash=setting.plan.plan_hash,
            )
    told = said("answer", f"#{number}", "continue", "anyway", "--by", "ann", "--reason", "she said so")
    assert f"Continue anyway by ann recorded for {PILOT}" in told
    assert ("within 10 s" in told) == driven
    assert ("`campaign resume demo`" in told) != driven
    assert "(was Continue anyway by ann)" in said("answer", str(number), "3", "--by", "bob")
    assert answer_on_record(setting) == ("Stop", "bob")


def test_who_answers_is_by_default_who_is_logged_in(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "grace")
    said("answer", str(ask(setting)), "2")
    assert answer_on_record(setting) == ("Pick another GPU", "grace")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["answer", "1", "maybe"], "alert 1: 'maybe' is not offered; choose one of 'Continue anyway' (1)"),
        (["answer", "1"], "alert 1: choose one of 'Continue anyway' (1)"),
        (["answer", "1", "4"], "'4' is not offered"),
        (["answer", "x", "1"], "alert 'x': give its number; `campaign alerts` lists them"),
        (["answer", "", "1"], "alert '': give its number"),
        (["answer", "99", "1"], "alert 99: there is none"),
        (["answer", "9" * 30, "1"], "there is none"),
        (["answer", "9" * 5000, "1"], "give its number"),
        (["answer", "2", "1"], "alert 2: asks nothing any more (stopped)"),
        (["alerts", "other"], "'other': not in the ledger"),
    ],
)
def test_anything_wrong_is_one_line(
    setting: Setting, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    ask(setting)
    tell(setting)
    assert says in refused(capsys, monkeypatch, *words, *(["--by", "ann"] if words[0] == "answer" else []))
    assert answer_on_record(setting) == (None, None)


@pytest.mark.parametrize("words", [["alerts"], ["answer", "1", "1", "--by", "ann"]])
def test_no_ledger_is_made_by_looking_or_answering(
    home: Home, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    assert "does not exist yet" in refused(capsys, monkeypatch, *words)
    assert list(home.path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "told"), [(-5, "0 s"), (119, "119 s"), (121, "2 min"), (7199, "120 min"), (7300, "2 h"), (9e5, "10 d")]
)
def test_ages(seconds: float, told: str) -> None:
    assert age(seconds) == told
