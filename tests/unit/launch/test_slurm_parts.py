"""How the Slurm launcher reads what Slurm says: ids, states, reasons, refusals, tables."""

import pytest

from prefect_campaign.launch.slurm.reasons import NEVER, never_starts, pending_detail, plain_reason
from prefect_campaign.launch.slurm.refusals import ArrayTooLarge, QueueFull, sbatch_failure
from prefect_campaign.launch.slurm.state import state_name
from prefect_campaign.launch.slurm.tables import read_blocks, read_table
from prefect_campaign.launch.slurm.text import read_accounting, read_id, read_queue, read_submitted, read_tasks
from prefect_campaign.launch.slurm.view import View, grouped
from prefect_campaign.model.errors import Refused, Transient, Unknown

FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("out", "err", "expected"),
    [
        ("4711\n", "", "4711"),
        ("4711;alpha\n", "", "4711"),
        ("Submitted batch job 4711\n", "", "4711"),
        ("Submitted batch job 4711 on cluster alpha\n", "", "4711"),
        ("motd 2026\n\nsbatch: lua: Submitted job 12\n4711\n\n", "", "4711"),
        ("", "site: quota 80 % used\nsbatch: lua: Submitted job 12\n", "12"),
        ("", "", None),
        ("error 12 of 13\n", "", None),
    ],
)
def test_the_id_of_a_submitted_job(out, err, expected):
    assert read_submitted(out, err) == expected


def test_ids_of_arrays_steps_and_heterogeneous_jobs():
    assert (read_id("12").base, read_id("12").task) == ("12", None)
    assert (read_id("12_7").base, read_id("12_7").task) == ("12", 7)
    assert read_id("93+1").component == 1
    assert list(read_id("12_[4-6,9%2]").tasks) == [4, 5, 6, 9]
    assert [read_id(text) for text in ("12.batch", "12_3.0", "JOBID", "", "12.ext+", "_", "12_")] == [None] * 7


def test_sets_of_tasks():
    tasks = read_tasks("[0-8:4,11%3]")
    assert (list(tasks), tasks.throttle, tasks.cut) == ([0, 4, 8, 11], 3, False)
    assert 4 in tasks
    assert 5 not in tasks
    assert read_tasks("[1,3,5,...]").cut


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("PD", "PENDING"),
        ("OUT_OF_ME+", "OUT_OF_MEMORY"),
        ("CANCELLED by 1000", "CANCELLED"),
        ("CANCELLED+", "CANCELLED"),
        ("running", "RUNNING"),
        ("RUNNING,COMPLETING", "COMPLETING"),
        ("NEW_STATE", "NEW_STATE"),
        ("", ""),
    ],
)
def test_states_in_all_spellings(said, name):
    assert state_name(said) == name


WAITING = [
    "Priority",
    "Resources",
    "Dependency",
    "BeginTime",
    "Licenses",
    "JobArrayTaskLimit",
    "QOSMaxJobsPerUserLimit",
    "Reservation",
    "QOSMaxGRESPerUser",
    "AssocGrpGRES",
    "QOSGrpCpuLimit",
    "AssocMaxJobsLimit",
    "Cleaning",
    "None",
    "SomethingNew",
    "PartitionDown",
    "ReqNodeNotAvail,_UnavailableNodes:n[1-3]",
    "(ReqNodeNotAvail,_Reserved_for_maintenance)",
    "NodeDown",
    "MaxGRESPerAccount",
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions",
]
NEVER_STARTING = [
    "PartitionTimeLimit",
    "PartitionNodeLimit",
    "BadConstraints",
    "AccountNotAllowed",
    "QOSNotAllowed",
    "InvalidAccount",
    "InvalidQOS",
    "DependencyNeverSatisfied",
    "JobHeldUser",
    "JobHeldAdmin",
    "AssocMaxWallDurationPerJobLimit",
    "QOSMaxGRESPerJob",
    "QOSMaxCpuPerJobLimit",
    "AssocGrpCPUMinutesLimit",
    "launch_failed_requeued_held",
    "JobHoldMaxRequeue",
    "QOSMinGRES",
]


def test_waiting_is_told_from_never_starting():
    assert {reason for reason in WAITING if never_starts(reason)} == set()
    assert {reason for reason in NEVER_STARTING if not never_starts(reason)} == set()
    assert pending_detail("(JobHeldUser)", "12_3").startswith(f"{NEVER}: JobHeldUser: ")
    assert "scontrol release 12_3" in pending_detail("JobHeldUser", "12_3")
    assert pending_detail("Priority", "12") == "waits: Priority (others come first)"
    assert pending_detail("(PartitionDown)", "12").startswith("waits: PartitionDown (the partition is closed; ")
    assert pending_detail("QOSMaxJobsPerUserLimit", "12").startswith("waits: QOSMaxJobsPerUserLimit (what the account")
    assert pending_detail("SomethingNew", "12") == "waits: SomethingNew"
    assert plain_reason("ReqNodeNotAvail,_UnavailableNodes:n1") == "ReqNodeNotAvail, UnavailableNodes:n1"


@pytest.mark.parametrize(
    ("err", "kind", "told"),
    [
        (f"{FAILED}Invalid partition name specified", Refused, "sinfo"),
        (f"{FAILED}Invalid account or account/partition combination specified", Refused, "account"),
        (f"{FAILED}Invalid qos specification", Refused, "qos"),
        (f"{FAILED}Requested node configuration is not available", Refused, "ask for less"),
        (f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)", Refused, "time"),
        ("sbatch: unrecognized option '--nonsense'", Refused, "directives"),
        (f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{FAILED}Job violates accounting/QOS policy (job submit limit, "
         "user's size and/or time limits)", Refused, "QOSMaxWallDurationPerJobLimit"),
        (f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{FAILED}Job violates accounting/QOS policy (job submit limit, "
         "user's size and/or time limits)", QueueFull, "room"),
        (f"{FAILED}Slurm temporarily unable to accept job, sleeping and retrying", QueueFull, "room"),
        (f"{FAILED}Invalid job array specification", ArrayTooLarge, "array"),
        (f"{FAILED}Socket timed out on send/recv operation", Unknown, "looked for"),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
         f"{FAILED}Socket timed out on send/recv operation", Unknown, "looked for"),
        (f"{FAILED}Unable to contact slurm controller (connect failure)", Unknown, "looked for"),
        ("", Unknown, "looked for"),
        ("sbatch: error: Munge encode failed: Failed to access socket", Transient, "Munge"),
    ],
)  # fmt: skip
def test_what_a_failed_submission_means(err, kind, told):
    error = sbatch_failure("lab", "pc-x", "", err)
    assert type(error) is kind
    assert told in str(error)
    assert "\n" not in str(error)


def test_rows_among_chatter_and_torn_lines():
    out = "Welcome!\npc|12_[0-9%2]|PENDING|Resources||name|pc:1\npc|12_1|RUNNING|None|n1|name|a|b\npc|13|RUNN\nmail|3\n"
    first, second = read_queue(out)
    assert (first.id.base, first.state, first.reason, 4 in first.id.tasks) == ("12", "PENDING", "Resources", True)
    assert (second.id.task, second.node, second.comment) == (1, "n1", "a|b")
    out = (
        "JobID|State|ExitCode|NodeList|JobName\n12_1|CANCELLED by 5|0:15|n1|name\n12_1.batch|CANCELLED|0:15|n1|batch\n"
    )
    (row,) = read_accounting(out)
    assert (row.state, row.exit_code, row.signal, row.node, row.name) == ("CANCELLED", 0, 15, "n1", "name")


def test_tables_as_people_print_them():
    out = "  JOBID PARTITION     NAME     USER ST       TIME  NODES NODELIST(REASON)\n"
    out += "  12_[3-9]  gpu  my job   me  PD  0:00  1 (ReqNodeNotAvail, UnavailableNodes:n4)\n"
    out += "  7  gpu x me R 1-02:03:04 1 n2\n"
    waiting, running = read_table(out)
    assert waiting == waiting | {"id": "12_[3-9]", "state": "PD", "reason": "(ReqNodeNotAvail, UnavailableNodes:n4)"}
    assert running == running | {"id": "7", "state": "R", "node": "n2"}
    (job,) = read_blocks("JobId=7 JobName=a b\n   JobState=RUNNING Reason=None\n   NodeList=n[1-2] Restarts=2\n")
    assert (job["JobState"], job["NodeList"], job["Restarts"], job["JobName"]) == ("RUNNING", "n[1-2]", "2", "a b")


def test_a_view_finds_tasks_that_wait_run_or_ended_together():
    rows = read_queue("pc|5_[2-9]|PENDING|Priority||n|\npc|5_1|RUNNING|None|a|n|\npc|6|CANCELLED|None||n|\n")
    view = View(rows, 0.0)
    assert view.row("n", "5", 1).state == "RUNNING"
    assert view.row("n", "5", 7).state == "PENDING"
    assert view.row("n", "5", 10) is None
    assert view.row("n", "6", 3).state == "CANCELLED"  # all its tasks were cancelled before any ran
    assert view.row("other", "5", 1) is None
    assert view.bases("n") == ["5", "6"]


def test_many_ids_are_few_words():
    ids = [("7", n) for n in (3, 1, 2, 9)] + [("8", None)]
    assert grouped(ids) == ["8", "7_[1-3,9]"]
    words = grouped([("7", 2 * n) for n in range(5000)], longest=1000)
    assert max(map(len, words)) < 1100
    assert sorted(n for word in words for n in read_id(word).tasks) == [2 * n for n in range(5000)]
