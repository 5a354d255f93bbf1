"""The worlds of the end-to-end tests, without and with a Prefect server."""

import pytest

pytest.register_assert_rewrite("crash.promises", "crash.gpu_promises", "crash.gpu_campaigns")

from e2e.conftest import offline, prefect_server, world  # noqa: E402 - its assertions explain themselves

__all__ = ["offline", "prefect_server", "world"]
