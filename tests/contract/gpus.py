"""What must hold of any reading of GPUs, whatever driver they are read through."""

import os
import pwd
import re

from prefect_campaign.launch.gpus.inventory import GpuReader
from prefect_campaign.launch.gpus.nvml import Reading

UUID = re.compile(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class GpuContract:
    """Subclasses define the fixture `reader`: a `GpuReader` on a machine with at least one GPU."""

    def test_every_gpu_is_told_once_in_pci_order_by_a_uuid(self, reader: GpuReader) -> None:
        reading = self.reading(reader)
        assert [gpu.index for gpu in reading.gpus] == list(range(len(reading.gpus)))
        assert len({gpu.uuid for gpu in reading.gpus}) == len(reading.gpus)
        assert all(UUID.fullmatch(gpu.uuid) for gpu in reading.gpus)

    def test_the_versions_are_told(self, reader: GpuReader) -> None:
        reading = self.reading(reader)
        assert re.fullmatch(r"\d+\.\d+(\.\d+)?", reading.driver)
        assert re.fullmatch(r"\d+\.\d+", reading.cuda)

    def test_what_is_told_of_a_usable_gpu_is_plausible(self, reader: GpuReader) -> None:
        for gpu in self.reading(reader).gpus:
            if gpu.problem:
                continue
            assert gpu.name != "?"
            assert 0 <= gpu.used_mb <= gpu.total_mb
            assert gpu.total_mb > 1000
            assert gpu.utilisation is None or 0 <= gpu.utilisation <= 100
            assert gpu.temperature is None or 0 < gpu.temperature < 150
            assert not gpu.ecc_errors
            assert not gpu.mig

    def test_processes_have_an_owner_and_no_more_memory_than_the_gpu(self, reader: GpuReader) -> None:
        for gpu in self.reading(reader).gpus:
            assert len({process.pid for process in gpu.processes}) == len(gpu.processes)
            for process in gpu.processes:
                assert process.used_mb is None or 0 <= process.used_mb <= gpu.total_mb
                assert process.user
                assert process.command
                if process.pid == os.getpid():
                    assert process.user == pwd.getpwuid(os.getuid()).pw_name

    def test_two_readings_are_of_the_same_gpus(self, reader: GpuReader) -> None:
        first, second = self.reading(reader), self.reading(reader)
        assert [(g.uuid, g.index, g.name, g.total_mb) for g in first.gpus] == [
            (g.uuid, g.index, g.name, g.total_mb) for g in second.gpus
        ]

    @staticmethod
    def reading(reader: GpuReader) -> Reading:
        reading = reader.read()
        assert reading.problem == ""
        assert reading.gpus
        return reading
