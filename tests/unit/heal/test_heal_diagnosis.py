"""Diagnosis: facts before text, true error texts, and prose that must not be mistaken for one."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_campaign.heal.catalog import load_catalog
from prefect_campaign.heal.diagnosis import EVIDENCE_MAX, diagnose
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.records import Evidence

CUDA = "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 23.65 GiB total)"
TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 9, in <module>\n    [x for x in step()]\n'
DIRECT = "\n\nThe above exception was the direct cause of the following exception:\n\n"
CONTEXT = "\n\nDuring handling of the above exception, another exception occurred:\n\n"


def of(text: str = "", code: int | None = 1, **facts: Any) -> str:
    return diagnose(Evidence(exit_code=code, stderr_tail=text, **facts)).signature


@pytest.mark.parametrize(
    ("code", "facts", "text", "expected"),
    [
        (137, {}, CUDA, "host_oom"),
        (None, {"signal": 9}, CUDA, "host_oom"),
        (-9, {}, "", "host_oom"),
        (137, {"oom_killed": False}, CUDA, "killed"),
        (1, {"oom_killed": True}, CUDA, "host_oom"),
        (0, {"oom_killed": True}, "", "host_oom"),
        (1, {"scheduler_state": "OUT_OF_MEMORY"}, CUDA, "host_oom"),
        (None, {"scheduler_state": "OUT_OF_ME+", "recorded": False}, "", "host_oom"),
        (143, {"scheduler_state": "TIMEOUT"}, "", "timeout"),
        (137, {"scheduler_state": "PREEMPTED"}, "", "preempted"),
        (None, {"scheduler_state": "NODE_FAIL", "recorded": False}, "", "node_failure"),
        (143, {"scheduler_state": "NODE_FAIL"}, "", "node_failure"),
        (1, {"scheduler_state": "CANCELLED by 1000"}, "", "killed"),
        (1, {"scheduler_state": "FAILED"}, TRACEBACK + CUDA, "cuda_oom"),
        (0, {}, CUDA, "no_result"),
        (0, {}, "", "no_result"),
        (0, {"non_finite": "train/loss"}, CUDA, "nan_loss"),
        (0, {"recorded": False}, "", "lost"),
        (None, {"recorded": False}, CUDA, "lost"),
        (None, {}, CUDA, "lost"),
        (1, {"recorded": False}, CUDA, "lost"),
        (126, {}, CUDA, "command_not_found"),
        (127, {}, "sh: 1: trian: not found", "command_not_found"),
        (143, {}, CUDA, "killed"),
        (130, {}, "", "killed"),
        (143, {"non_finite": "loss"}, "", "nan_loss"),
        (139, {}, "Segmentation fault", "killed"),
        (134, {}, "terminate called after throwing an instance of 'std::bad_alloc'", "host_oom"),
        (1, {"non_finite": "loss"}, TRACEBACK + "KeyError: 'x'", "nan_loss"),
        (1, {"non_finite": "loss"}, TRACEBACK + CUDA, "cuda_oom"),
        (1, {}, "", "unknown"),
        (255, {}, "ssh: connect failed", "unknown"),
    ],
)
def test_facts_come_before_text(code: int | None, facts: dict[str, Any], text: str, expected: str) -> None:
    assert of(text, code, **facts) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (CUDA, "cuda_oom"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ...", "cuda_oom"),
        ("RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 31.75 GiB total)", "cuda_oom"),
        ("RuntimeError: CUDA error: out of memory", "cuda_oom"),
        ("RuntimeError: HIP out of memory. Tried to allocate 1 GiB", "cuda_oom"),
        ("RuntimeError: MPS backend out of memory (MPS allocated: 18.00 GB)", "cuda_oom"),
        (
            "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "cuda_oom",
        ),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cuda_oom"),
        (
            "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7",
            "cuda_oom",
        ),
        ("RuntimeError: Resource exhausted: Out of memory while trying to allocate 12582912 bytes.", "cuda_oom"),
        (
            "tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating tensor with "
            "shape[8,9] and type float",
            "cuda_oom",
        ),
        ("cupy_backends.cuda.api.runtime.CUDARuntimeError: cudaErrorMemoryAllocation: out of memory", "cuda_oom"),
        ("cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 8,000 bytes", "cuda_oom"),
        (
            "2019-07-21 23:23:06.228049: E tensorflow/stream_executor/cuda/cuda_driver.cc:828] failed to allocate "
            "32.00M (33554432 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
            "cuda_oom",
        ),
        ("[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB", "cuda_oom"),
        ("[2024-01-01 12:00:00,123][__main__][ERROR] - CUDA out of memory. Tried to allocate", "cuda_oom"),
        ("2024-01-01 12:00:00.123 | ERROR    | train:main:10 - CUDA out of memory. Tried", "cuda_oom"),
        ("  what():  CUDA out of memory. Tried to allocate 2 GiB", "cuda_oom"),
        ("\x1b[31mRuntimeError: CUDA out of memory. Tried\x1b[0m", "cuda_oom"),
        ("MemoryError", "host_oom"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.28 TiB", "host_oom"),
        ("OSError: [Errno 12] Cannot allocate memory", "host_oom"),
        ("sh: 0: fork: Cannot allocate memory", "host_oom"),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:75] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 8000 bytes. Error code 12 (Cannot allocate memory)",
            "host_oom",
        ),
        ("slurmstepd: error: Detected 2 oom_kill events in StepId=440575.0. Some of the step tasks", "host_oom"),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in step 3756240.batch cgroup.", "host_oom"),
        ("srun: error: nid001277: tasks 1-3: Out Of Memory", "host_oom"),
        ("Loss is nan, stopping training", "nan_loss"),
        ("ValueError: train loss is NaN at step 12", "nan_loss"),
        ("FloatingPointError: Loss became infinite or NaN at iteration=166!", "nan_loss"),
        ("FloatingPointError: Minimum loss scale reached (0.0001).", "nan_loss"),
        ("Exception: Current loss scale already at minimum - cannot decrease scale anymore.", "nan_loss"),
        ("FloatingPointError: invalid value (nan) encountered in jit(step)", "nan_loss"),
        ("RuntimeError: non-finite loss, aborting", "nan_loss"),
        ("RuntimeError: Loss diverged", "nan_loss"),
        ("RuntimeError: Function 'MulBackward0' returned nan values in its 0th output.", "nan_loss"),
        ("ModuleNotFoundError: No module named 'einops'", "missing_module"),
        ("/usr/bin/python3: No module named trainer", "missing_module"),
        ("OSError: [Errno 28] No space left on device: '/scratch/x'", "disk_full"),
        ("OSError: [Errno 122] Disk quota exceeded", "disk_full"),
    ],
)
def test_every_common_spelling(line: str, expected: str) -> None:
    assert of(f"step 1\n{line}\n") == expected
    if not line.startswith((" ", "[", "2")):
        assert of(TRACEBACK + line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "we avoid CUDA out of memory by accumulating gradients",
        "INFO: CUDA out of memory. was seen in an earlier version",
        "WARNING CUDA out of memory, trying a smaller batch",
        "[INFO] CUDA out of memory. handled",
        "CUDA out of memory errors are retried",
        "metric nanmean = 0.3",
        "loss: nanmean over 3 steps",
        "loss is nan-safe here",
        "the MemoryError class is caught",
        "using OutOfMemoryErrorHandler",
        "RESOURCE_EXHAUSTED: Received message larger than max (5 vs. 4)",
        "ValueError: batch_size must be > 0",
        "FloatingPointError: division by zero",
    ],
)
def test_prose_is_no_failure(line: str) -> None:
    assert of(line) == "unknown"


def test_a_survived_error_is_no_reason() -> None:
    log = f"{TRACEBACK}{CUDA}\nskipped that batch\n{TRACEBACK}KeyError: 'accuracy'"
    found = diagnose(Evidence(exit_code=1, stderr_tail=log))
    assert (found.signature, found.evidence) == ("unknown", "exit code 1: KeyError: 'accuracy'")


@pytest.mark.parametrize("link", [DIRECT, CONTEXT])
def test_a_chained_exception_leads_to_its_cause(link: str) -> None:
    log = f"{TRACEBACK}{CUDA}{link}{TRACEBACK}RuntimeError: training failed"
    found = diagnose(Evidence(exit_code=1, stderr_tail=log))
    assert (found.signature, found.evidence) == ("cuda_oom", CUDA)


def test_a_launchers_own_exception_leads_to_the_rank_that_failed() -> None:
    ranked = "\n".join(f"[rank1]: {line}" for line in (TRACEBACK + CUDA).splitlines())
    elastic = f"{TRACEBACK}torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\ntrain.py FAILED"
    assert of(f"{ranked}\n{elastic}") == "cuda_oom"
    inner = diagnose(Evidence(1, stderr_tail=f"{TRACEBACK}KeyError: 'x'\n{elastic}"))
    assert inner.evidence == "exit code 1: KeyError: 'x'"


def test_evidence_is_the_last_line_that_says_something() -> None:
    log = (
        "boom: no such dataset\n\n====\nwandb: View run at https://x\nSet the environment variable HYDRA_FULL_ERROR=1\n"
    )
    assert diagnose(Evidence(2, stderr_tail=log)).evidence == "exit code 2: boom: no such dataset"
    progress = diagnose(Evidence(2, stderr_tail="bad config\r 10%|#  | 1/9\r 20%|##  | 2/9")).evidence
    assert progress == "exit code 2: bad config"


def test_joined_streams_are_read_from_stdout() -> None:
    assert diagnose(Evidence(1, stdout_tail=TRACEBACK + CUDA)).signature == "cuda_oom"
    assert diagnose(Evidence(1, stderr_tail="no config", stdout_tail=CUDA)).signature == "unknown"


def test_only_the_tail_counts() -> None:
    assert of(CUDA + "\n" + "x\n" * 40_000) == "unknown"


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=300),
    st.none() | st.integers(-70, 300),
    st.none() | st.integers(-5, 99),
    st.booleans(),
    st.none() | st.text(max_size=9),
)
def test_any_evidence_gets_a_diagnosis(
    text: str, code: int | None, signal: int | None, recorded: bool, state: str | None
) -> None:
    found = diagnose(Evidence(code, signal, recorded, scheduler_state=state, stderr_tail=text, non_finite=state))
    assert found.signature in load_catalog().signatures
    assert len(found.evidence) <= EVIDENCE_MAX


@pytest.mark.parametrize(
    "unit",
    ["Traceback (most recent call last):\nEOFError\n", "\x1b]", "1:", "[a]", "x: ", "A.Error: ", "\n", "{{", "loss "],
)
@pytest.mark.timeout(60)  # a pattern that backtracks without bound would take hours
def test_hostile_logs_end(unit: str) -> None:
    assert diagnose(Evidence(1, stderr_tail=unit * 60_000)).signature == "unknown"


def test_a_user_extends_the_catalog(tmp_path: Any) -> None:
    extra = tmp_path / "mine.yaml"
    extra.write_text(
        "signatures:\n"
        "  licence:\n    cause: No licence was free.\n    fix: retry\n    patterns: ['LICENCE-\\d+', 'HIP out']\n"
        "    exit_codes: [42]\n"
        "  cuda_oom:\n    patterns: ['GPU memory exceeded']\n"
    )
    catalog = load_catalog(extra)
    assert diagnose(Evidence(1, stderr_tail="LICENCE-7 busy"), catalog).signature == "licence"
    assert diagnose(Evidence(42, stderr_tail=""), catalog).cause == "No licence was free."
    assert diagnose(Evidence(1, stderr_tail="HIP out of memory."), catalog).signature == "licence"
    for text in ("GPU memory exceeded", CUDA):
        found = diagnose(Evidence(1, stderr_tail=text), catalog)
        assert (found.signature, found.cause) == ("cuda_oom", "The GPU ran out of memory.")
    assert catalog.signatures["cuda_oom"].fix == "smaller_batch"
    assert "licence" not in load_catalog().signatures
    assert of("GPU memory exceeded") == "unknown"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("signatures: {x: {patterns: [a]}}", r"signatures\.x\.cause"),
        ("signatures: {x: {cause: c, patterns: ['(']}}", r"signatures\.x\.patterns"),
        ("signatures: {x: {cause: c, fix: pray}}", r"signatures\.x\.fix"),
        ("signatures: {x: {cause: c, pattern: [a]}}", "unknown field"),
        ("signatures: {'a b': {cause: c}}", "safe name"),
        ("- 1", "mapping"),
        ("a: [", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_catalog_names_file_and_field(tmp_path: Any, text: str | None, field: str) -> None:
    extra = tmp_path / "mine.yaml"
    if text is not None:
        extra.write_text(text)
    with pytest.raises(Refused, match=field) as caught:
        load_catalog(extra)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
