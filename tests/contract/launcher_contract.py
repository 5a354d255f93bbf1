"""What every launcher must do. A launcher's own test file subclasses `LauncherContract` and gives it a factory.

Jobs are real. They are short sh programs, so that the suite runs wherever a job script does.
"""

from contract.cancelling import CancellingContract
from contract.keeping import KeepingContract
from contract.running import RunningContract


class LauncherContract(RunningContract, KeepingContract, CancellingContract):
    """The whole contract."""
