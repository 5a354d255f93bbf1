"""The switch that turns skips into failures."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
SKIPS = {
    "call": "import pytest\ndef test_it(): pytest.skip('no slurm here')\n",
    "mark": "import pytest\n@pytest.mark.skip(reason='no slurm here')\ndef test_it(): pass\n",
    "fixture": "import pytest\n@pytest.fixture\ndef f(): pytest.skip('no slurm here')\ndef test_it(f): pass\n",
    "module": "import pytest\npytest.skip('no slurm here', allow_module_level=True)\n",
    "importing": "import pytest\npytest.importorskip('no_such_module', reason='no slurm here')\n",
}
GPU = "import pytest\n@pytest.mark.gpu\ndef test_it(): pytest.skip('needs an NVIDIA GPU')\n"
EXPECTED = "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_it(): assert False\ndef test_other(): pass\n"


def run(folder: Path, skips: str) -> tuple[int, str]:
    for name, source in {**SKIPS, "gpu": GPU, "expected": EXPECTED}.items():
        (folder / f"test_{name}.py").write_text(source)
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "-p",
        "conftest",
        "-p",
        "no:cacheprovider",
        "-o",
        "markers=gpu",
    ]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "CAMPAIGN_TEST_SKIPS": skips, "PYTEST_ADDOPTS": ""}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer to load than all else
    done = subprocess.run(
        [*argv, "-o", "markers=gpu", "--rootdir", str(folder), str(folder), "--continue-on-collection-errors"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_every_kind_of_skip_fails_when_asked_but_for_a_gpu_and_an_expected_failure(tmp_path: Path) -> None:
    code, said = run(tmp_path, "fail")
    assert code == 1
    assert said.count("no slurm here (skips are failures here") >= len(SKIPS)
    # To pytest, what fails before the call is an error.
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed, 4 errors" in said


def test_skips_are_skips_by_default(tmp_path: Path) -> None:
    code, said = run(tmp_path, "")
    assert code == 0
    assert f"{len(SKIPS) + 1} skipped" in said
