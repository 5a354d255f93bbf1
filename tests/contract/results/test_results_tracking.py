import gzip
import json
import math
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from prefect_campaign.model.records import MetricRow
from prefect_campaign.results import tracking, wandb_run
from prefect_campaign.results.tracking import log_run
from prefect_campaign.results.wandb_run import TrackedRun

ROWS = [MetricRow({"val/accuracy": 0.1 * i, "loss": math.nan}, step=10 * i, time=1_700_000_000.0 + i) for i in range(4)]


@pytest.fixture(autouse=True)
def fresh_wandb(monkeypatch, tmp_path):
    """No key from outside, and a wandb that reads this test's environment."""
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(tracking, "_offline_until", -math.inf)
    yield
    import wandb

    wandb.teardown()


class FakeServer(ThreadingHTTPServer):
    """Enough of the W&B API to take one run; remembers what it was sent."""

    def __init__(self, status=200):
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.status, self.seen = status, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def sent(self, word):
        return [body for path, body in self.seen if word in path + body]


class FakeHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        text = body.decode("utf-8", "replace")
        self.server.seen.append((self.path, text))
        answer = json.dumps(self.answer(text)).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_GET = do_POST  # noqa: N815 - the names that http.server calls

    def answer(self, text):
        if "UpsertBucket" in text:
            bucket = {"id": "x", "name": json.loads(text)["variables"]["name"], "historyLineCount": 0}
            bucket["project"] = {"id": "p", "name": "digits", "entity": {"id": "e", "name": "ann"}}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "CreateRunFiles" in text:
            names = json.loads(text)["variables"]["files"]
            files = [{"name": n, "uploadUrl": f"{self.server.url}/upload/{n}"} for n in names]
            return {"data": {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}}
        return {"data": {}} if self.path.endswith("graphql") else {}

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    started = []

    def start(status=200):
        started.append(FakeServer(status))
        monkeypatch.setenv("WANDB_BASE_URL", started[-1].url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        return started[-1]

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


def content(folder):
    """What an offline run holds, as bytes."""
    (path,) = folder.glob("run-*.wandb")
    return path.read_bytes()


def test_a_job_that_logs_itself_is_not_logged_twice(campaign, view, tmp_path):
    for name in ("run-20260101_000000-a", "offline-run-20260102_000000-b", "latest-run"):
        (tmp_path / "job" / "wandb" / name).mkdir(parents=True)

    tracked = log_run(view(run_dir=str(tmp_path / "job")), campaign, ROWS, tmp_path / "out")

    assert tracked == TrackedRun(path=tmp_path / "job" / "wandb" / "offline-run-20260102_000000-b")
    assert not (tmp_path / "out").exists()


def test_off_does_nothing(make_campaign_with, view, tmp_path, monkeypatch):
    assert log_run(view(), make_campaign_with(tracking={"wandb": "off"}), ROWS, tmp_path) == TrackedRun()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert log_run(view(), make_campaign_with(), ROWS, tmp_path) == TrackedRun()
    assert list(tmp_path.iterdir()) == []


def test_without_a_key_the_run_is_written_offline_and_quietly(campaign, view, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked for a key"))
    experiment = view(hypothesis="it will win", changes=("batch 64 -> 32",), comparable=False)

    tracked = log_run(experiment, campaign, ROWS, tmp_path)

    assert (tracked.url, tracked.problem) == (None, None)
    assert list((tmp_path / "wandb").glob("offline-run-*")) == [tracked.path]
    data = content(tracked.path)
    for word in ("ours_d1_main_s0", "it will win", "val/accuracy", "final/accuracy", "not-comparable", "full", "d1"):
        assert word.encode() in data, word
    assert capfd.readouterr() == ("", "")


def test_logging_the_same_attempt_again_changes_nothing(campaign, view, tmp_path):
    first = log_run(view(), campaign, ROWS, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert log_run(view(), campaign, ROWS, tmp_path) == first
    assert sorted(tmp_path.rglob("*")) == before

    second = log_run(view(attempt=2), campaign, ROWS, tmp_path)
    later_round = log_run(view(created_at=1_800_000_000.0), campaign, ROWS, tmp_path)
    assert len({first.path, second.path, later_round.path}) == 3


def test_a_run_cut_off_by_a_crash_is_written_anew(campaign, view, tmp_path):
    first = log_run(view(), campaign, ROWS, tmp_path)
    import wandb

    wandb.teardown()  # as in a new process
    for marker in (tmp_path / "tracked").iterdir():
        marker.write_text("{half")
    (first.path / "rubbish").write_text("x")

    again = log_run(view(), campaign, ROWS, tmp_path)

    assert list((tmp_path / "wandb").glob("offline-run-*")) == [again.path]
    assert not (again.path / "rubbish").exists()
    assert b"val/accuracy" in content(again.path)


def test_works_from_threads_and_leaves_no_service_address_for_jobs(campaign, view, tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda s=s: found.append(log_run(view(seed=s), campaign, ROWS, tmp_path)))
        for s in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [t.problem for t in found] == [None] * 3
    assert len({t.path for t in found}) == 3
    assert "WANDB_SERVICE" not in os.environ


def test_hostile_values_are_logged(campaign, view, tmp_path, hostile):
    rows = [
        MetricRow({"": 1.0, "_step": 7.0, "a.b/c d": math.inf, hostile: -math.inf}, step=-1.5),
        MetricRow({"x": 1e308}, step=math.nan, time=math.nan),
        MetricRow({}),
    ]
    spoilt = view(hostile, hostile, metrics={"final/accuracy": math.nan}, objective_value=math.nan, exp_id="weird")

    tracked = log_run(spoilt, campaign, rows, tmp_path)

    assert tracked.problem is None
    assert b"a.b/c d" in content(tracked.path)


def test_online_with_a_key(campaign, view, tmp_path, server):
    wandb_server = server()

    tracked = log_run(view(hypothesis="why"), campaign, ROWS, tmp_path)

    assert tracked.problem is None
    assert tracked.path is None
    assert tracked.url.startswith(wandb_server.url + "/ann/digits/runs/")
    sent = json.loads(wandb_server.sent("UpsertBucket")[0])["variables"]
    assert (sent["project"], sent["displayName"], sent["groupName"]) == ("digits", "ours_d1_main_s0", "ours")
    assert sent["tags"] == ["full", "ours", "d1"]
    assert sent["notes"].startswith("why")
    streams = [json.loads(body)["files"]["wandb-history.jsonl"] for body in wandb_server.sent("wandb-history.jsonl")]
    history = [json.loads(line) for stream in streams for line in stream["content"]]
    assert [(h["step"], h["val/accuracy"]) for h in history] == [(r.step, r.values["val/accuracy"]) for r in ROWS]
    assert [h["_timestamp"] for h in history] == [r.time for r in ROWS]  # the job's own, not that of the upload
    assert '"final/accuracy":0.9' in "".join(wandb_server.sent("upload/wandb-summary.json"))

    requests = len(wandb_server.seen)
    assert log_run(view(hypothesis="why"), campaign, ROWS, tmp_path) == tracked
    assert not [body for _, body in wandb_server.seen[requests:] if "UpsertBucket" in body]


def test_a_server_that_refuses_means_offline_and_is_not_asked_again_soon(campaign, view, tmp_path, server):
    refusing, now = server(401), [1000.0]

    def log(seed):
        return log_run(view(seed=seed), campaign, ROWS, tmp_path, clock=lambda: now[0])

    first = log(0)
    asked = len(refusing.sent("UpsertBucket"))
    second = log(1)

    assert first.path is not None
    assert first.path.name.startswith("offline-run-")
    assert "written offline" in first.problem
    assert b"val/accuracy" in content(first.path)
    assert second.path is not None
    assert asked > 0
    assert len(refusing.sent("UpsertBucket")) == asked
    assert not list((tmp_path / "wandb").glob("run-*"))

    now[0] += tracking.OFFLINE_FOR_SECONDS + 1
    log(2)
    assert len(refusing.sent("UpsertBucket")) > asked


def test_offline_by_choice_talks_to_nobody(make_campaign_with, view, tmp_path, server):
    wandb_server = server()
    campaign = make_campaign_with(tracking={"wandb": "offline"})
    tracked = log_run(view(), campaign, ROWS, tmp_path)
    assert tracked.path is not None
    assert tracked.problem is None
    assert wandb_server.seen == []


def test_a_key_in_netrc_counts_for_its_server_only(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine wandb.lab login user password " + "a" * 40 + "\n")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.lab")
    assert tracking._has_key("https://wandb.lab")
    assert not tracking._has_key("https://elsewhere")
    netrc.write_text("machine broken")
    assert not tracking._has_key("https://wandb.lab")


def test_what_wandb_raises_is_reported_not_raised(make_campaign_with, view, tmp_path, monkeypatch):
    campaign = make_campaign_with(tracking={"project": "no/slashes#allowed"})
    tracked = log_run(view(), campaign, ROWS, tmp_path)
    assert tracked.path is None
    assert "project" in tracked.problem.lower()
    assert "\n" not in tracked.problem

    blocked = tmp_path / "file"
    blocked.write_text("x")
    assert log_run(view(), make_campaign_with(), ROWS, blocked / "below").problem


def test_long_curves_are_thinned_to_the_ends():
    rows = [MetricRow({"x": float(i)}, step=i) for i in range(25_000)]
    thinned = wandb_run._thinned(rows)
    assert len(thinned) == wandb_run.MAX_ROWS
    assert (thinned[0], thinned[-1]) == (rows[0], rows[-1])
