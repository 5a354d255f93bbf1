"""Why an attempt failed: facts first, the log last."""

import re
import signal as signals
from collections.abc import Iterator, Sequence
from dataclasses import replace

from prefect_campaign.heal.catalog import Catalog, load_catalog
from prefect_campaign.model.records import Diagnosis, Evidence

TAIL = 64 * 1024
"""Characters of a log's end that are looked at."""
LINE_MAX = 2000
EVIDENCE_MAX = 500

_MEMORY = ("cuda_oom", "host_oom")
# Sent from outside; a job does not die of these by its own fault, so its log does not explain them.
_FROM_OUTSIDE = {signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGQUIT}

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\n]{0,500}\x07|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_RANK = re.compile(r"\[[A-Za-z_]+\s?\d+\]:\s?|\d{1,5}:\s")
# What loggers put before a message: time stamps, the level ERROR, loguru's and glog's origin.
_DECORATION = re.compile(
    r"(?:(?:\[(?!(?i:info|warn|warning|debug)\])[^\]\n]{1,60}\]"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.,]*(?:Z|[+-]\d\d:?\d\d)?"
    r"|(?:ERROR|CRITICAL|FATAL)\b|[EF] [\w/.]+\.cc:\d+\]|[\w.]+:[\w<>.]+:\d+(?= - )|[-:|](?=\s))\s*)+"
)
_WHAT = re.compile(r"\s+what\(\):\s*")
_EXCEPTION = re.compile(r"[\w.]*(?:Error|Exception)\w*: ")
_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)


def diagnose(evidence: Evidence, catalog: Catalog | None = None) -> Diagnosis:
    """Say why an attempt failed, from the strongest evidence there is.

    Facts (exit code and signal, scheduler state, OOMKilled, exit record, reported metrics) decide before any
    text does. What the scheduler says explains a signal, since it knows who sent it.

    Args:
        evidence: what is known of the attempt's end.
        catalog: signatures to look for; default: the shipped ones.
    """
    catalog = catalog or load_catalog()
    code, signal = evidence.exit_code, _signal_of(evidence)
    shown = _shown(code, signal)

    for name, signature in catalog.signatures.items():
        if code in signature.exit_codes:
            return _diagnosis(catalog, name, f"{shown}: {_explain(catalog, evidence)[1]}".removesuffix(": "))
    if evidence.scheduler_state:
        for name, signature in catalog.signatures.items():
            if any(_same_state(evidence.scheduler_state, s) for s in signature.scheduler_states):
                return _diagnosis(catalog, name, f"scheduler state {evidence.scheduler_state}")
    if evidence.oom_killed:
        return _diagnosis(catalog, "host_oom", f"killed by the out-of-memory killer ({shown})")
    not_finite = f"metric {evidence.non_finite!r} was not finite ({shown})"
    if signal == signals.SIGKILL and evidence.oom_killed is False:
        return _diagnosis(catalog, "killed", f"{shown}, and not for want of memory")
    if signal == signals.SIGKILL:
        # Or somebody did, or a node died.
        guess = _diagnosis(catalog, "host_oom", f"{shown}, as the kernel kills when memory runs out")
        return replace(guess, sure=False)
    if signal in _FROM_OUTSIDE:
        # A run whose loss is no longer finite is often stopped by hand: trying it unchanged would be pointless.
        if evidence.non_finite:
            return _diagnosis(catalog, "nan_loss", not_finite)
        return _diagnosis(catalog, "killed", shown)
    if not evidence.recorded or (code is None and signal is None):
        return _diagnosis(catalog, "lost", f"no exit record ({shown})")
    if code == 0:
        if evidence.non_finite:
            return _diagnosis(catalog, "nan_loss", not_finite)
        return _diagnosis(catalog, "no_result", f"{shown}, no finite objective")

    found, line = _explain(catalog, evidence)
    if evidence.non_finite and found not in _MEMORY:
        return _diagnosis(catalog, "nan_loss", not_finite)
    if found:
        return _diagnosis(catalog, found, line)
    return _diagnosis(catalog, "unknown" if signal is None else "killed", f"{shown}: {line}".removesuffix(": "))


def _diagnosis(catalog: Catalog, name: str, evidence: str) -> Diagnosis:
    return Diagnosis(name, catalog.signatures[name].cause, evidence[:EVIDENCE_MAX])


def _signal_of(evidence: Evidence) -> int | None:
    """Death by a signal, as recorded, as the shell's 128 + n, or as Python's -n."""
    if evidence.signal is not None:
        return evidence.signal
    code = evidence.exit_code or 0
    number = -code if code < 0 else code - 128
    return number if 1 <= number <= 64 else None


def _shown(code: int | None, signal: int | None) -> str:
    name = ""
    if signal is not None:
        name = signals.Signals(signal).name if signal in set(signals.Signals) else f"signal {signal}"
    if code is None:
        return name or "exit code unknown"
    return f"exit code {code} ({name})" if name else f"exit code {code}"


def _same_state(seen: str, known: str) -> bool:
    """Scheduler states as Slurm prints them: ``CANCELLED by 1000``, or cut to ``OUT_OF_ME+``."""
    word = (seen.split() or [""])[0].upper()
    cut = word.rstrip("+")
    return known.startswith(cut) and len(cut) >= 4 if word.endswith("+") else word == known


def _explain(catalog: Catalog, evidence: Evidence) -> tuple[str | None, str]:
    """The signature that the log shows, if any, and the line that shows it or at least says most."""
    # Scripts that join their streams write tracebacks to stdout.
    text = evidence.stderr_tail if evidence.stderr_tail.strip() else evidence.stdout_tail
    lines = _ESCAPES.sub("", text[-TAIL:].replace("\r", "\n")).split("\n")
    plain = (_undecorated(line[:LINE_MAX]) for line in lines)
    return _search(catalog, [line for line in plain if line])


def _search(catalog: Catalog, lines: Sequence[str]) -> tuple[str | None, str]:
    """Look at the last traceback and what follows it; before it only where it points there.

    An earlier error that the script survived is no reason for its end.
    """
    primary = secondary = ""
    while (start := _last_traceback(lines)) is not None:
        end = start + 1
        while end < len(lines) and lines[end][:1].isspace():
            end += 1
        exception, *after = lines[end:] or [""]
        found = _first(catalog, [exception, *reversed(after)])
        if found:
            return found
        reports_another = _any(catalog.secondary, exception)
        if reports_another:
            secondary = secondary or exception
        else:
            primary = primary or exception
        chained = start > 0 and lines[start - 1] in _CHAINED
        lines = lines[:start]
        if not (chained or reports_another):
            return None, primary
    plain = [line.strip() for line in reversed(lines) if not _any(catalog.noise, line.strip())]
    return _first(catalog, plain) or (None, primary or secondary or next(iter(plain), ""))


def _last_traceback(lines: Sequence[str]) -> int | None:
    return next((i for i in reversed(range(len(lines))) if lines[i].startswith(_TRACEBACK)), None)


def _first(catalog: Catalog, lines: Sequence[str]) -> tuple[str, str] | None:
    for line in map(str.strip, lines):
        forms = list(_forms(line))
        for name, signature in catalog.signatures.items():
            if any(_any(signature.patterns, form) for form in forms):
                return name, line
    return None


def _forms(line: str) -> Iterator[str]:
    """The line itself, then its message without ``SomeError:``, and so on inwards."""
    yield line
    while found := _EXCEPTION.match(line):
        line = line[found.end() :]
        yield line


def _any(patterns: Sequence[re.Pattern[str]], line: str) -> bool:
    return any(p.match(line) for p in patterns)


def _undecorated(line: str) -> str:
    """Without rank, time stamp and so on; an indented line belongs to a traceback and stays so."""
    line = _RANK.sub("", line, count=1) if _RANK.match(line) else line
    found = _WHAT.match(line) or _DECORATION.match(line)
    return (line[found.end() :] if found else line).rstrip()
