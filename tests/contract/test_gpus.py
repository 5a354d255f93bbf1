"""The GPU contract over the fake driver, and over the machine's own GPUs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.gpus import GpuContract
from driver import Driver, gpus

from prefect_campaign.launch.gpus.inventory import GpuReader


class TestFakeGpus(GpuContract):
    @pytest.fixture
    def reader(self, driver: Driver) -> Iterator[GpuReader]:
        driver.set(gpus(8))
        driver.run(driver.uuids[3], os.getpid(), 900)
        driver.run(driver.uuids[3], 1, None)
        driver.change(driver.uuids[4], ecc=None, utilisation=None, temperature=None)
        reader = GpuReader()
        yield reader
        reader.close()


@pytest.mark.gpu
class TestRealGpus(GpuContract):
    @pytest.fixture
    def reader(self) -> Iterator[GpuReader]:
        if not any(Path("/dev").glob("nvidia[0-9]*")):
            pytest.skip("needs an NVIDIA GPU: there is no /dev/nvidia0")
        reader = GpuReader()
        yield reader
        reader.close()
