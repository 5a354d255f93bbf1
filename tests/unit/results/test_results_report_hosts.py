"""The report's section on hosts."""

from prefect_campaign.results.hosts import host_lines
from prefect_campaign.results.report import write_report


def check(host, state="ready", **changes):
    steps = [
        {"step": "code", "state": "passed", "detail": ""},
        {"step": "program", "state": "passed", "detail": "/usr/bin/python3 starts"},
        {"step": "dry run", "state": "left out", "detail": "policy.dry_run names no arguments for one"},
    ]
    if state == "failed":
        steps = [{"step": "program", "state": "failed", "detail": "python3 | <b>not</b> found"}]
    return {"host": host, "launcher": "ssh", "gpus": ["RTX"] * 2, "state": state, "steps": steps, **changes}


def test_every_host_is_listed_with_its_check_and_what_ran_there(campaign, view, tmp_path):
    views = [view(seed=1, host="h1", launcher="ssh"), view(seed=2, host="here", launcher="local")]
    lines = host_lines([check("h1"), check("h2", "failed")], views)
    page = write_report(views, campaign, tmp_path, hosts=lines).read_text()
    markdown = (tmp_path / "report.md").read_text()
    assert "## Hosts" in markdown
    left_out = "dry run left out (policy.dry_run names no arguments for one)"
    assert f"| h1 | ssh | 2 x RTX | ready | 1 | code, program passed; {left_out} |" in markdown
    assert "| h2 | ssh | 2 x RTX | **failed** | 0 | program: python3 \\|" in markdown
    assert "| here | local | – | ready | 1 | nothing to check" in markdown
    assert "<b>not</b>" not in page
    assert "&lt;b&gt;not&lt;/b&gt; found" in page


def test_a_single_host_that_works_is_not_worth_a_section(campaign, view, tmp_path):
    views = [view(host="h1", launcher="ssh")]
    assert host_lines([check("h1")], views) == []
    assert host_lines([], [view(host=None)]) == []
    assert len(host_lines([check("h1", "failed")], [])) == 1
    page = write_report(views, campaign, tmp_path).read_text()
    assert "<h2>Hosts</h2>" not in page
