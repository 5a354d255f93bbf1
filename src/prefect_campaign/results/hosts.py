"""The hosts of a campaign for its report: what came of their checks, and what ran there."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect_campaign.model.records import ExperimentView


@dataclass(frozen=True)
class HostLine:
    """One host."""

    host: str
    launcher: str
    gpus: str
    """How many of which; empty if it has none."""
    state: str
    why: str
    """What failed, or what was looked at."""
    experiments: int
    """Whose latest attempt was there."""


def host_lines(checks: Sequence[Mapping[str, Any]], views: Sequence[ExperimentView]) -> list[HostLine]:
    """A line for each host; none at all if there is nothing to tell: a single host that works.

    Args:
        checks: for each checked host what `engine.environment` told last: host, launcher, gpus, state, steps.
        views: all experiments of the round.
    """
    ran = Counter(view.host for view in views if view.host)
    launchers = {view.host: view.launcher or "" for view in views if view.host}
    known = {check["host"]: check for check in checks}
    lines = []
    for host in sorted({*ran, *known}):
        check = known.get(host)
        if check is None:
            why = "nothing to check: this machine, and no dry run (policy.dry_run)"
            lines.append(HostLine(host, launchers[host], "", "ready", why, ran[host]))
            continue
        gpus = ", ".join(f"{count} x {name}" for name, count in Counter(check["gpus"]).items())
        lines.append(HostLine(host, check["launcher"], gpus, check["state"], _why(check["steps"]), ran[host]))
    return lines if len(lines) > 1 or any(line.state == "failed" for line in lines) else []


def _why(steps: Sequence[Mapping[str, str]]) -> str:
    """What failed if anything did; else what has passed, and what was left out."""
    failed = [f"{one['step']}: {one['detail']}" for one in steps if one["state"] == "failed"]
    if failed:
        return "; ".join(failed)
    passed = [one["step"] for one in steps if one["state"] == "passed"]
    left_out = [f"{one['step']} left out ({one['detail']})" for one in steps if one["state"] == "left out"]
    return "; ".join([f"{', '.join(passed)} passed", *left_out])
