"""Assertions in the shared contract suites explain themselves like those of test files."""

import pytest

pytest.register_assert_rewrite("contract.launchers")
