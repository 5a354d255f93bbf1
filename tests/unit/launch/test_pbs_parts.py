"""PBS: its script, its answers in all their forms, what states and exit statuses mean."""

import json

import pytest
from contract.launchers import make_spec

from prefect_campaign.launch.pbs.errors import failure_of, is_in_doubt, reason
from prefect_campaign.launch.pbs.qstat import read_qstat, same_job, submitted_id, token_of, unknown_ids
from prefect_campaign.launch.pbs.script import BATCH_NAME, PbsRequest, job_name, pbs_files, walltime
from prefect_campaign.launch.pbs.states import entry_of, seconds, size
from prefect_campaign.launch.queue.jobs import Said, first_number, job_mark
from prefect_campaign.model.errors import Refused

FULL = """\
Hello from the log-in node
Job Id: 41.head.example.org
    Job_Name = pc-0123456789ab
    job_state = R
    resources_used.walltime = 01:00:00
    exec_host = gpu3/0*8+gpu4/0*8
    Error_Path = head.example.org:/scratch/somebody/a_rather_long_folder_name/anoth
\ter/file.err
    Variable_List = PBS_O_HOME=/home/me,CAMPAIGN_TOKEN=pc-tta-svm-a1,
\tF=() {  echo hi
    job_state = F
},PBS_O_HOST=head
    comment = Job run at Mon on (gpu3:ncpus=8)+(gpu4:ncpus=8) and it goes on and on
\t and on
    Exit_status = 0

Job Id: 42[].head.example.org
    job_state = B
Job Id: 43
    job_state = C
    exit_status = 271
"""


def said(err: str = "", code: int = 1, out: str = "") -> Said:
    return Said(code, out, err)


# -- reading qstat --------------------------------------------------------------------------------------------------


def test_full_form_with_wrapped_values_and_lines_that_only_look_like_attributes() -> None:
    jobs = read_qstat(FULL)
    assert list(jobs) == ["41.head.example.org", "42[].head.example.org", "43"]
    one = jobs["41.head.example.org"]
    assert one["Error_Path"].endswith("/another/file.err")
    assert one["comment"].endswith("and it goes on and on and on")
    assert token_of(one) == "pc-tta-svm-a1"
    assert one["job_state"] == "R"
    assert entry_of("43", jobs["43"]).state == "CANCELLED"


def test_json_with_chatter_around_it() -> None:
    job = {"job_state": "Q", "Resource_List": {"walltime": "01:00:00"}, "Variable_List": {"CAMPAIGN_TOKEN": "pc-x"}}
    text = "Welcome {friend}\n" + json.dumps({"timestamp": 1, "Jobs": {"7.pbs": job}}) + "\nbye\n"
    text = text.replace("{friend}", "friend")
    jobs = read_qstat(text)
    assert jobs["7.pbs"]["Resource_List.walltime"] == "01:00:00"
    assert token_of(jobs["7.pbs"]) == "pc-x"


@pytest.mark.parametrize(
    "variables",
    [
        '"A":"x", "CAMPAIGN_TOKEN":"pc-x"',
        '"A":005, "CAMPAIGN_TOKEN":"pc-x"',
        '"A":"it\\\'s \\, here", "CAMPAIGN_TOKEN":"pc-x"',
        '"A":"say "hi" to all", "CAMPAIGN_TOKEN":"pc-x"',
        '"A":"() {  echo\n\t}", "CAMPAIGN_TOKEN":"pc-x"',
        '"CAMPAIGN_TOKEN":"pc-x", "A":"ends here',
    ],
)
def test_json_that_is_none(variables: str) -> None:
    job = f'"job_state":"R", "exec_host":"n1/0", "Variable_List":{{{variables}}}, "Exit_status":0'
    text = f'{{"timestamp":1,\n"Jobs":{{\n"1.pbs":{{{job}}},\n"2.pbs":{{"job_state":"F","Exit_status":-29}}\n}}}}\n'
    jobs = read_qstat(text)
    assert list(jobs) == ["1.pbs", "2.pbs"]
    assert jobs["1.pbs"]["job_state"] == "R"
    assert token_of(jobs["1.pbs"]) == "pc-x"
    assert entry_of("2.pbs", jobs["2.pbs"]).state == "TIMEOUT"


def test_json_that_begins_its_list_for_every_job_anew() -> None:
    text = '{"pbs_version":"18", "Jobs":{"1.pbs":{"job_state":"Q"}, "Jobs":{"2.pbs":{"job_state":"R"}}\n'
    assert {job_id: job["job_state"] for job_id, job in read_qstat(text).items()} == {"1.pbs": "Q", "2.pbs": "R"}


def test_no_jobs_and_no_answer_are_different() -> None:
    assert read_qstat('{"timestamp":1, "pbs_server":"pbs"}') == {}
    assert read_qstat("") == {}
    assert read_qstat("Service is being moved to the new machine\n") is None
    assert read_qstat("<Data><Job></Job></Data>") is None


def test_attributes_alone_are_those_of_the_one_that_was_asked_for() -> None:
    text = "    job_state = F\n    Exit_status = 1\n"
    assert read_qstat(text, ["9.pbs"]) == {"9.pbs": {"job_state": "F", "Exit_status": "1"}}
    assert read_qstat(text, ["9.pbs", "10.pbs"]) is None


def test_the_short_table() -> None:
    text = (
        "Job id            Name             User              Time Use S Queue\n"
        "----------------  ---------------- ----------------  -------- - -----\n"
        "12.head           pc-0123456789ab  me                00:01:02 R gpu\n"
        "13[].head         a b              me                       0 Q gpu\n"
    )
    assert read_qstat(text) == {"12.head": {"job_state": "R"}, "13[].head": {"job_state": "Q"}}


def test_ids() -> None:
    assert unknown_ids("qstat: Unknown Job Id 5.pbs\nqstat: 6.pbs Unknown Job Id\nqstat: other trouble 7.pbs") == {
        "5.pbs",
        "6.pbs",
    }
    assert submitted_id("Budget left: 120\n  77.head.example.org\nGood luck\n") == "77.head.example.org"
    assert submitted_id("77.head\n78.head\n") == submitted_id("thank you") == submitted_id("") == ""
    assert same_job("7", "7.pbs")
    assert same_job("7.pbs", "7.pbs.example.org")
    assert not same_job("7.pbs", "77.pbs")
    assert not same_job("7.pbs", "7.pbs2")
    assert not same_job("7[].pbs", "7.pbs")
    assert sorted(["10.pbs", "9.pbs"], key=first_number) == ["9.pbs", "10.pbs"]


# -- meaning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "state"),
    [
        ({"Exit_status": "-29"}, "TIMEOUT"),
        ({"Exit_status": "-28"}, "TIMEOUT"),
        ({"Exit_status": "-27"}, "OUT_OF_MEMORY"),
        ({"Exit_status": "-26"}, "OUT_OF_MEMORY"),
        ({"Exit_status": "-25"}, "FAILED"),
        ({"Exit_status": "-20"}, "NODE_FAIL"),
        ({"Exit_status": "-14"}, "NODE_FAIL"),
        ({"Exit_status": "-11"}, "PREEMPTED"),
        ({"Exit_status": "-4"}, "BOOT_FAIL"),
        ({"Exit_status": "-3"}, "NODE_FAIL"),
        ({"Exit_status": "-999"}, "FAILED"),
        ({"exit_status": "-10"}, "OUT_OF_MEMORY"),
        ({"exit_status": "-11"}, "TIMEOUT"),
        ({"Exit_status": "271"}, "CANCELLED"),
        ({"Exit_status": "143", "substate": "91"}, "CANCELLED"),
        ({"Exit_status": "143"}, "FAILED"),
        ({"Exit_status": "267"}, "FAILED"),
        ({"Exit_status": "271", "resources_used.walltime": "24:00:07", "Resource_List.walltime": "24:00:00"},
         "TIMEOUT"),
        ({"Exit_status": "137", "resources_used.mem": "8388608kb", "Resource_List.mem": "8gb"}, "OUT_OF_MEMORY"),
        ({"Exit_status": "137", "resources_used.mem": "1mb", "Resource_List.mem": "8gb"}, "FAILED"),
        ({"Exit_status": "0"}, "COMPLETED"),
        ({"Exit_status": "7"}, "FAILED"),
        ({"substate": "91"}, "CANCELLED"),
        ({}, "FINISHED"),
    ],
)  # fmt: skip
def test_how_a_job_ended(attributes, state) -> None:
    entry = entry_of("1", {"job_state": "F", **attributes})
    assert (entry.status, entry.state) == ("ended", state)
    assert entry.oom_killed == (state == "OUT_OF_MEMORY")


def test_held_jobs_wait_for_somebody_unless_for_other_jobs() -> None:
    assert entry_of("1", {"job_state": "H", "Hold_Types": "us"}).stuck
    assert "by its user and by PBS" in entry_of("1", {"job_state": "H", "Hold_Types": "us"}).detail
    assert not entry_of("1", {"job_state": "H", "Hold_Types": "s", "depend": "afterok:7.pbs@pbs"}).stuck
    assert not entry_of("1", {"job_state": "Q", "comment": "Not Running: not enough free nodes"}).stuck


def test_sizes_and_times() -> None:
    assert [size(t) for t in ("512", "1kb", "2gb", "3MB", "1w", "2kw", "x", "", "5qb")] == [
        512, 1024, 2 << 30, 3 << 20, 8, 16384, None, None, None,
    ]  # fmt: skip
    assert [seconds(t) for t in ("90", "01:30", "02:00:05", "1:00:00:00", "soon", "")] == [
        90, 90, 7205, 86400, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("err", "code", "kind"),
    [
        ("qstat: cannot connect to server head (errno=111)", 1, "away"),
        ("pbs_iff: all reserved ports in use", 2, "away"),
        ("", 162, "away"),
        ("qsub: Server closed connection", 1, "away"),
        ("qsub: would exceed queue generic's per-user limit", 1, "full"),
        ("qstat: PBS is not configured to maintain job history", 36, "history"),
        ("qstat: invalid option -- 'F'\nusage: qstat", 2, "usage"),
        ("qsub: Unknown queue", 170, "refused"),
        ("qsub: Access from host not allowed, or unknown host", 160, "refused"),
    ],
)
def test_failures(err: str, code: int, kind: str) -> None:
    assert failure_of(said(err, code)) == kind


@pytest.mark.parametrize(
    ("err", "code", "doubt"),
    [
        ("", 137, True),
        ("Killed", 137, True),
        ("/opt/site/qsub: line 3: 4711 Killed                  /opt/pbs/bin/qsub", 137, True),
        ("qsub: Server closed connection", 1, True),
        ("qsub: cannot connect to server head", 1, False),
        ("qsub: Unknown queue", 170, False),
        ("qsub: Killed jobs are not welcome here", 137, False),
    ],
)
def test_whether_a_job_may_have_been_handed_over(err: str, code: int, doubt: bool) -> None:
    assert is_in_doubt(said(err, code)) == doubt


def test_words_in_other_peoples_jobs_are_no_failure() -> None:
    listed = "Job Id: 7.pbs\n    Job_Name = timeout-study\n    comment = connection refused, try again\n"
    assert failure_of(said("qstat: Unknown Job Id 9.pbs", 153, listed)) == "refused"
    assert failure_of(said("", 153, listed)) == "refused"
    assert failure_of(said("", 1, "cannot connect to server head")) == "away"


def test_a_reason_is_one_line_without_the_programs_name() -> None:
    assert reason(said("warning: x\nqsub: Unknown\tqueue\n")) == "Unknown queue"
    assert "no reason" in reason(said(""))


# -- the script -----------------------------------------------------------------------------------------------------


def directives(spec, request=None) -> list[str]:
    lines = pbs_files(spec, request or PbsRequest())[BATCH_NAME].splitlines()
    return [line.removeprefix("#PBS ") for line in lines if line.startswith("#PBS ")]


def test_everything_is_asked_for(tmp_path) -> None:
    spec = make_spec(tmp_path / "e" / "a1", "true", gpu_count=2, cpus=8, memory_mb=16000, wall_minutes=725, disk_mb=500)
    request = PbsRequest(
        queue="gpuvolta", project="ab12", account="x", storage=("gdata/ab12", "scratch/ab12"), chunk="gpu_model=a100",
        place="excl", disk="jobfs", rerun=False,
        directives=("-l software=x", "-W umask=022", "-m ae -M me@x.org", "-l 'host=n1:J=1'", "-V"),
    )  # fmt: skip
    found = directives(spec, request)
    assert {
        "-q gpuvolta", "-P ab12", "-A x", "-l select=1:ncpus=8:ngpus=2:mem=16000mb:gpu_model=a100", "-l place=excl",
        "-l walltime=12:05:00", "-l storage=gdata/ab12+scratch/ab12", "-l jobfs=500mb", "-r n", "-l software=x",
        "-W umask=022", f"-N {job_name(spec.token)}", "-S /bin/sh",
        f"-v CAMPAIGN_TOKEN={spec.token},CAMPAIGN_MARK={job_mark(spec.run_dir)}",
    } <= set(found)  # fmt: skip
    assert len(job_name(spec.token)) == 15


@pytest.mark.parametrize(
    ("style", "wanted"),
    [
        ("plain", {"-l ncpus=4", "-l ngpus=1", "-l mem=100mb"}),
        ("nodes", {"-l nodes=1:ppn=4:gpus=1:a100", "-l mem=100mb"}),
    ],
)
def test_other_styles(tmp_path, style, wanted) -> None:
    spec = make_spec(tmp_path / "e" / "a1", "true", gpu_count=1, cpus=4)
    assert wanted <= set(directives(spec, PbsRequest(style=style, memory_mb=100, chunk="a100")))


def test_what_is_not_wanted_is_not_asked_for(tmp_path) -> None:
    found = directives(make_spec(tmp_path / "e" / "a1", "true"))
    assert "-l select=1:ncpus=1" in found
    assert not [one for one in found if "walltime" in one or "ngpus" in one or one.startswith(("-q", "-P", "-A", "-r"))]


def test_a_log_that_pbs_could_not_name_is_left_out(tmp_path) -> None:
    for folder, log in (("plain", f"{tmp_path}/plain/e/a1/scheduler.log"), ("a b", "/dev/null"), ("a:b", "/dev/null")):
        assert f"-o {log}" in directives(make_spec(tmp_path / folder / "e" / "a1", "true"))


@pytest.mark.parametrize(
    "bad",
    [{"queue": "a b"}, {"project": "x\n#PBS -q y"}, {"storage": ("a;b",)}, {"modules": ("$(id)",)},
     {"directives": ("select=1",)}, {"directives": ("-l a\n-l b",)}, {"directives": ("-J 0-9",)},
     {"directives": ("-hN x",)}, {"directives": ("-l a=1 -J 0-9",)}, {"directives": ("-VJ0-9",)},
     {"directives": ("-Vh",)}, {"directives": ("-Nx",)}, {"directives": ("-vA=b",)}, {"directives": ("-o /dev/null",)},
     {"directives": ("-e/dev/null",)}, {"directives": ("-r n",)}, {"directives": ("-ry",)}, {"directives": ("--x",)},
     {"directives": ("-W umask=022 -Wblock=true",)}, {"directives": ("-l 'a=1",)}, {"directives": ("-l a=1 b",)},
     {"directives": ("-v A=b",)}, {"directives": ("-W umask=022,block=true",)},
     {"chunk": "a b"}],
)  # fmt: skip
def test_bad_fields_are_refused_in_one_line(bad) -> None:
    with pytest.raises(Refused) as told:
        PbsRequest(**bad)
    assert next(iter(bad)) in str(told.value)
    assert "\n" not in str(told.value)


def test_walltime() -> None:
    assert [walltime(m) for m in (1, 60, 6000)] == ["00:01:00", "01:00:00", "100:00:00"]
