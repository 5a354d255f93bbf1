"""Reading what qstat prints, in any of its forms, also where it is not quite what it should be (pure).

Everything becomes job id -> attributes by PBS's own names, nested ones joined by a dot: ``Resource_List.walltime``.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

Jobs = dict[str, dict[str, str]]

_ID = r"\d+(?:\[\d*\])?(?:\.[A-Za-z0-9][A-Za-z0-9._-]*)?"
_ID_LINE = re.compile(rf"{_ID}(?:@\S+)?")
_HEADER = re.compile(r"^Job Id: *(\S+)[ \t]*$", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^ {1,8}([A-Za-z_]\w*(?:\.\w+)?) = (.*)$")
_TABLE = re.compile(r"^Job id\b.*\bS\b.*$", re.MULTILINE | re.IGNORECASE)
_ROW = re.compile(rf"^({_ID})\*?\s.*?\s([A-Z])\s+\S+\s*$", re.MULTILINE)
_UNKNOWN = re.compile(r"unknown job ?id", re.IGNORECASE)
_FINISHED = re.compile(r"job has finished", re.IGNORECASE)

# In JSON that is broken: where a job begins, and single attributes of it.
_JOB = re.compile(rf'"({_ID})"\s*:\s*\{{')
_PAIR = re.compile(r'"([A-Za-z_]\w*)"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|(-?\d+)|(\{))')
_GROUPS = frozenset({"Resource_List", "resources_used", "Variable_List", "estimated"})

TOKEN = "CAMPAIGN_TOKEN"  # noqa: S105 - an attempt's name, no secret
"""Variable of a job that holds its attempt's token."""
MARK = "CAMPAIGN_MARK"
"""Variable of a job that tells its attempt from one of the same name in another campaign home."""


def read_qstat(out: str, asked: Sequence[str] = ()) -> Jobs | None:
    """The jobs in what qstat printed; None if it is none of the forms that are known.

    Args:
        out: its standard output. Lines that others print around it are skipped.
        asked: the ids it was asked for; one alone names attributes that come without a ``Job Id`` line.
    """
    if "<Data>" in out or "<?xml" in out:
        return None  # Torque's answer to -x
    start = out.find("{")
    if start >= 0 and re.search(r'"(Jobs|pbs_version|pbs_server|timestamp)"', out):
        return _json(out[start:])
    if _HEADER.search(out):
        return _full(out)
    if _TABLE.search(out):
        return {job_id: {"job_state": letter} for job_id, letter in _ROW.findall(out)}
    attributes = _attributes(out.splitlines())
    if len(asked) == 1 and attributes:
        return {asked[0]: attributes}
    return None if out.strip() else {}


def unknown_ids(err: str) -> set[str]:
    """Ids of which PBS says that it has no such job."""
    return {one for line in err.splitlines() if _UNKNOWN.search(line) for one in _ids(line)}


def finished_ids(err: str) -> set[str]:
    """Ids of which PBS says that they are over, and no more."""
    return {one for line in err.splitlines() if _FINISHED.search(line) for one in _ids(line)}


def submitted_id(out: str) -> str:
    """The id that qsub printed, whatever a log-in or a hook prints around it; empty if there is none, or two."""
    found = {line.strip() for line in out.splitlines() if _ID_LINE.fullmatch(line.strip())}
    return found.pop() if len(found) == 1 else ""


def same_job(one: str, other: str) -> bool:
    """Whether two ids mean one job: ``7``, ``7.pbs`` and ``7.pbs.example.org`` do."""
    (number, _, server), (number2, _, server2) = (i.split("@")[0].partition(".") for i in (one, other))
    if number != number2:
        return False
    return not server or not server2 or f"{server}.".startswith(f"{server2}.") or f"{server2}.".startswith(f"{server}.")


def token_of(attributes: Mapping[str, str]) -> str | None:
    """The token that a job carries; None if it does not say."""
    return _variable(attributes, TOKEN)


def mark_of(attributes: Mapping[str, str]) -> str | None:
    """The mark that a job carries; None if it does not say."""
    return _variable(attributes, MARK)


def _variable(attributes: Mapping[str, str], name: str) -> str | None:
    given = attributes.get(f"Variable_List.{name}")
    if given is not None:
        return given
    found = re.search(rf"(?:^|,){name}=([^,\s]*)", attributes.get("Variable_List", ""))
    return found[1] if found else None


def _ids(line: str) -> list[str]:
    words = (word.strip("'\",:;()") for word in line.split())
    return [word for word in words if _ID_LINE.fullmatch(word)]


def _full(out: str) -> Jobs:
    found: Jobs = {}
    heads = list(_HEADER.finditer(out))
    for head, after in zip(heads, [*heads[1:], None], strict=True):
        found[head[1]] = _attributes(out[head.end() : after.start() if after else len(out)].splitlines())
    return found


def _attributes(lines: Sequence[str]) -> dict[str, str]:
    """``name = value``, with values that go on after a line break.

    The first of a name counts: a variable of the job may hold lines that look like others.
    """
    found: dict[str, str] = {}
    name, parts = "", []
    for line in [*lines, " end = "]:
        match = _ATTRIBUTE.match(line)
        if match is None:
            parts.append(line.removeprefix("\t") if line.startswith("\t") else line.strip())
            continue
        if name:
            found.setdefault(name, "".join(parts).strip())
        name, parts = match[1], [match[2]]
    return found


def _json(text: str) -> Jobs:
    end = text.rfind("}")
    whole = text[: end + 1]
    for candidate in (whole, _mended(whole)):
        try:
            found = json.loads(candidate, strict=False)
        except (ValueError, RecursionError):
            continue
        jobs = found.get("Jobs") if isinstance(found, dict) else None
        if isinstance(jobs, dict) and len(_JOB.findall(text)) <= max(1, len(jobs)):
            return {str(job_id): _flat(job) for job_id, job in jobs.items() if isinstance(job, dict)}
        if jobs is None and not _JOB.search(text):
            return {}
    return _broken(text)


def _mended(text: str) -> str:
    """Without the mistakes that releases of OpenPBS make: numbers like 005, and backslashes before anything."""
    text = re.sub(r"(:\s*)(-?0\d+)(\s*[,}\n])", r'\1"\2"\3', text)
    return re.sub(r'\\(?!["\\/bfnrtu])', "", text)


def _flat(job: Mapping[str, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in job.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": str(one) for inner, one in value.items()}
        else:
            found[str(name)] = str(value)
    return found


def _broken(text: str) -> Jobs:
    """What can still be told from text that is no JSON: each job's attributes, by their names."""
    found: Jobs = {}
    heads = list(_JOB.finditer(text))
    for head, after in zip(heads, [*heads[1:], None], strict=True):
        attributes: dict[str, str] = {}
        for name, value in _pairs(text[head.end() : after.start() if after else len(text)]):
            attributes.setdefault(name, value)
        found[head[1]] = attributes
    return found


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    group = ""
    for match in _PAIR.finditer(text):
        name, quoted, number, opens = match.groups()
        if opens:
            group = name if name in _GROUPS else ""
            continue
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else number
        yield name, value
        if group:
            yield f"{group}.{name}", value
        if name in (TOKEN, MARK):
            yield f"Variable_List.{name}", value
