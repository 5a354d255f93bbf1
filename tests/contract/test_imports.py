"""What takes long to import is imported where it is used."""

import subprocess
import sys


def test_importing_the_module_does_not_import_optuna() -> None:
    code = "import sys, prefect_campaign.decide.optuna_search; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
