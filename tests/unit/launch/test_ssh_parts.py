"""The pure parts of the SSH launcher: settings, paths, errors, answers, process trees."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from contract.launchers import make_spec
from hypothesis import given
from hypothesis import strategies as st

from prefect_campaign.blocks.ssh import SshMachine
from prefect_campaign.launch.poller import next_pause
from prefect_campaign.launch.process import Process
from prefect_campaign.launch.ssh import remote
from prefect_campaign.launch.ssh.cancel import tree
from prefect_campaign.launch.ssh.errors import is_shortage, last_line, never_connected, ssh_failure
from prefect_campaign.launch.ssh.host import SshHost
from prefect_campaign.launch.ssh.remote_paths import Facts, RemotePlace, mapped, relative_run_dir
from prefect_campaign.model.errors import Refused, Transient

HOST = SshHost("gpu1", "gpu1.lab", user="me", port=2222, known_hosts="/k")
PLACE = RemotePlace(HOST, Facts("/home/me", "/usr/bin:/bin", 8, "boot", 0.0, frozenset()))


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "GPU 1"),
        ("name", ""),
        ("name", "-x"),
        ("address", "-oProxyCommand=touch injected"),
        ("address", "a b"),
        ("address", "a\nb"),
        ("user", "-l"),
        ("user", "a@b"),
        ("port", 0),
        ("port", 70000),
        ("root", ""),
        ("root", "/"),
        ("root", "~"),
        ("root", "a\0b"),
        ("path", ("a:b",)),
        ("env", {"A B": "1"}),
        ("shared", ("relative",)),
        ("slots", 0),
        ("factor", 0.0),
        ("factor", float("nan")),
        ("keep_free", -1),
        ("key_file", "a\nb"),
    ],
)
def test_a_setting_that_can_never_work_is_refused_by_name(field, value):
    with pytest.raises(Refused, match=field) as told:
        replace(HOST, **{field: value})
    assert "\n" not in str(told.value)


def test_the_block_has_every_setting_of_the_host():
    assert set(SshMachine.model_fields) >= set(SshHost.__dataclass_fields__)
    values = {
        "name": "h1",
        "address": "a",
        "user": "u",
        "port": 5,
        "key_file": "/key",
        "known_hosts": "/known",
        "config_file": "/config",
        "root": "r",
        "path": ["p"],
        "env": {"A": "1"},
        "shared": ["/s"],
        "exclude": ["*.pt"],
        "slots": 3,
        "factor": 2.0,
        "reserve": ["0"],
        "keep_free": 1,
        "tmux": True,
    }
    assert set(values) == set(SshHost.__dataclass_fields__)
    launcher = SshMachine(**values).launcher()
    assert launcher.slots == 3
    found = {name: getattr(launcher.host, name) for name in values}
    assert found == {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    assert SshMachine(name="h1").host() == SshHost("h1")
    assert all(field.description for name, field in SshMachine.model_fields.items() if name in values)


# -- paths ----------------------------------------------------------------------------------------------------------


def test_run_dirs_of_homes_rounds_and_campaigns_are_kept_apart():
    homes = [f"/{home}/campaigns/{c}/runs/e/a1" for home in ("a", "b") for c in ("t", "t.r2", "u")]
    found = [relative_run_dir(path) for path in homes]
    assert len(set(found)) == len(found)
    assert found[0].startswith("t-")
    assert found[0].endswith("/e/a1")
    assert found == [relative_run_dir(path) for path in homes]


def test_folders_of_the_settings_are_seen_from_the_home_there():
    place = replace(PLACE, host=replace(HOST, root="~/w", path=("venv/bin", "/opt/bin", "~/x")))
    assert place.root == "/home/me/w"
    assert place.job_path() == "/home/me/venv/bin:/opt/bin:/home/me/x:/usr/bin:/bin"


PATHS = {"/w": "/there", "/w/run": "/there/run", "/w/run/ckpt": "/c"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/w", "/there"),
        ("/w/x/y", "/there/x/y"),
        ("/w/run", "/there/run"),
        ("/w/run/", "/there/run/"),
        ("/w/run/ckpt/best.pt", "/c/best.pt"),
        ("/w/run2", "/there/run2"),
        ("/wide", "/wide"),
        ("/a/w", "/a/w"),
        ("x/w", "x/w"),
        ("--o=/w,/w/run;/w", "--o=/there,/there/run;/there"),
        ("{'a': '/w'}", "{'a': '/there'}"),
        ("(/w)", "(/there)"),
        ("/w.bak /w-2 /w_", "/w.bak /w-2 /w_"),
        ("", ""),
    ],
)
def test_whole_paths_are_mapped_and_nothing_else(text, expected):
    assert mapped({"k": text}, PATHS) == {"k": expected}


@given(st.text(), st.from_regex(r"/[a-z][a-z /.'$-]{0,8}[a-z]", fullmatch=True))
def test_mapping_survives_any_text_and_any_path(text, path):
    mapped({0: text}, {path: "/there"})
    assert mapped({0: f"--o={path}, {path}/x"}, {path: "/there"}) == {0: "--o=/there, /there/x"}
    assert mapped({0: text}, {}) == {0: text}


def test_an_attempt_is_run_with_the_hosts_paths_and_says_where_it_comes_from():
    run_dir = "/me/home/campaigns/t/runs/e/a1"
    spec = replace(
        make_spec(Path(run_dir), "python", "/project/t.py", run_dir, env={"A": "/project"}), workdir="/project/"
    )
    there = PLACE.attempt(spec, "/home/me/.campaign/code/abc")
    assert there.run_dir == f"/home/me/.campaign/runs/{relative_run_dir(run_dir)}"
    assert there.argv == ("python", "/home/me/.campaign/code/abc/t.py", there.run_dir)
    assert there.env["A"] == "/home/me/.campaign/code/abc"
    assert there.env["CAMPAIGN_ORIGIN"] == run_dir
    assert (there.token, there.seed, there.exp_id) == (spec.token, spec.seed, spec.exp_id)
    shared = replace(PLACE, host=replace(HOST, shared=("/me",)))
    assert shared.run_dir(spec) == run_dir


# -- errors ---------------------------------------------------------------------------------------------------------

CHANGED = """@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
Offending ED25519 key in /k:1
Host key for [gpu1.lab]:2222 has changed and you have requested strict checking.
Host key verification failed.
"""
UNKNOWN_KEY = (
    "No ED25519 host key is known for x and you have requested strict checking.\nHost key verification failed.\n"
)


@pytest.mark.parametrize(
    ("said", "code", "kind", "told"),
    [
        (CHANGED, 255, Refused, "ssh-keygen -f /k -R '[gpu1.lab]:2222'"),
        (UNKNOWN_KEY, 255, Refused, "ssh-keyscan -p 2222 gpu1.lab >>/k"),
        ("me@gpu1.lab: Permission denied (publickey).\r\n", 255, Refused, "authorized_keys"),
        ("Permission denied (publickey,password).", 255, Refused, "authorized_keys"),
        ("Received disconnect from 1.2.3.4 port 22:2: Too many authentication failures", 255, Refused, "not let in"),
        ("ssh: connect to host gpu1.lab port 22: Connection refused", 255, Transient, "Connection refused"),
        ("ssh: Could not resolve hostname gpu1.lab: Name or service not known", 255, Transient, "resolve"),
        ("ssh: connect to host gpu1.lab port 22: Connection timed out", 255, Transient, "timed out"),
        ("kex_exchange_identification: Connection closed by remote host", 255, Transient, "closed"),
        ("System is going down.\nConnection closed by 1.2.3.4 port 22", 255, Transient, "Connection closed"),
        ("/home/ada/.ssh/config: line 1: Bad configuration option: x", 255, Refused, "configuration"),
        ("", 255, Transient, "connection broke"),
        ("noise: Permission denied (x).\nConnection closed", 255, Transient, "closed"),
        ("This account is currently not available.", 1, Refused, "not available"),
        ("-bash: fork: Resource temporarily unavailable", 254, Transient, "temporarily"),
        ("me@gpu1.lab: Permission denied (publickey).", 1, Refused, "runs no commands"),
    ],
)
def test_what_ssh_says_becomes_what_to_do(said, code, kind, told):
    error = ssh_failure(HOST, code, said)
    assert type(error) is kind
    assert told in str(error)
    assert "gpu1" in str(error)
    assert "\n" not in str(error)


def test_only_what_surely_did_not_begin_is_taken_for_that():
    assert never_connected("ssh: connect to host x port 22: No route to host")
    assert not never_connected("Connection closed by 1.2.3.4 port 22")
    assert not never_connected("")


@given(st.text())
def test_any_text_on_stderr_makes_one_printable_line(said):
    assert str(ssh_failure(HOST, 255, said)).isprintable()
    assert last_line(said).isprintable()
    is_shortage(said)


# -- answers --------------------------------------------------------------------------------------------------------


@given(st.text())
def test_any_answer_is_survived_or_transient(answer):
    remote.read_observed(answer, 3)
    for read in (remote.read_facts, remote.read_scan, lambda text: remote.read_words(text, first=("found",))):
        with suppress(Transient):
            read(answer)


def test_a_list_of_processes_that_is_cut_off_is_no_list():
    whole = "leader 5\nprocess 5 1 5 S 100\nprocess 6 5 5 S 101\nend\n"
    assert remote.read_scan(whole)[0] == 5
    for end in range(len(whole) - 4):
        with pytest.raises(Transient):
            remote.read_scan(whole[:end])


def test_a_host_that_is_away_is_looked_for_less_often_but_at_least_once_a_minute():
    pauses = [5.0]
    for _ in range(6):
        pauses.append(next_pause(pauses[-1], 5.0, 60.0, away=True))
    assert pauses == [5, 10, 20, 40, 60, 60, 60]
    assert next_pause(60.0, 5.0, 60.0, away=False) == 5
    assert next_pause(300.0, 300.0, 60.0, away=True) == 300


# -- process trees --------------------------------------------------------------------------------------------------


def table(*rows: tuple[int, int, int]) -> dict[int, Process]:
    """(pid, parent, session) -> living processes that started at 1000 + pid."""
    return {pid: Process(pid, parent, session, "S", 1000 + pid) for pid, parent, session in rows}


ALL = table((1, 0, 1), (10, 1, 10), (11, 10, 10), (12, 11, 12), (13, 12, 12), (14, 1, 10), (20, 1, 20), (21, 20, 20))


def test_the_tree_is_the_session_and_its_descendants():
    assert set(tree(10, (), ALL, {})) == {10, 11, 12, 13, 14}


def test_without_its_leader_the_marked_ones_and_their_descendants_are_left():
    assert set(tree(None, {12}, ALL, {})) == {12, 13}
    assert tree(None, (), ALL, {}) == {}


def test_those_that_were_known_stay_known_but_not_a_stranger_with_such_a_pid():
    known = {20: ALL[20], 14: Process(14, 1, 10, "S", 7)}
    assert set(tree(None, (), ALL, known)) == {20, 21}
    assert set(tree(None, (), {21: ALL[21]}, {20: ALL[20]})) == set()


def test_the_dead_are_not_in_it():
    dead = {**ALL, 11: replace(ALL[11], state="Z")}
    assert set(tree(10, (), dead, {})) == {10, 12, 13, 14}
