"""What tests are called without anybody calling them so, and why one is skipped."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import marks
import programs
import pytest


@pytest.mark.parametrize(
    ("folder", "fixtures", "module", "expected"),
    [
        ("unit", [], {}, []),
        ("contract", ["tmp_path", "sshd"], {"Sshd": object}, ["ssh"]),
        ("contract", ["slurm_alone", "slurm"], {}, ["slurm"]),
        ("contract", ["docker_engine", "postgres_url"], {}, ["docker", "postgres"]),
        ("e2e", ["prefect_server", "page"], {}, ["e2e", "ui"]),
        ("crash", ["prefect_server"], {}, ["crash", "e2e"]),
    ],
)
def test_marks_come_from_the_folder_the_fixtures_and_the_rig(
    folder: str, fixtures: list[str], module: dict[str, Any], expected: list[str]
) -> None:
    path = marks.TESTS / folder / "deeper" / "test_x.py"
    item: Any = SimpleNamespace(path=path, fixturenames=fixtures, module=SimpleNamespace(**module))
    assert marks.marks_of(item) == expected


def test_every_mark_is_registered(pytestconfig: pytest.Config) -> None:
    registered = {line.split(":")[0] for line in pytestconfig.getini("markers")}
    assert {*marks.FOLDERS.values(), *marks.FIXTURES.values(), *marks.RIGS.values(), "gpu"} <= registered


def test_a_missing_program_is_a_skip_that_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PLACES", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"^needs ssh, ssh-keygen: apt-get install openssh-client$"):
        programs.needed("ssh", "ssh-keygen")
    for name in ("ssh", "ssh-keygen"):
        (tmp_path / name).touch(mode=0o755)
    assert programs.needed("ssh", "ssh-keygen") == str(tmp_path / "ssh")
