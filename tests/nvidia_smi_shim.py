"""A program `nvidia-smi` for the PATH of a host: its idle GPUs as `nvidia-smi -q -x` tells them."""

from collections.abc import Sequence

_GPU = """<gpu id="00000000:0{n}:00.0"><product_name>NVIDIA GeForce RTX 4090</product_name>
<minor_number>{n}</minor_number><mig_mode><current_mig>N/A</current_mig></mig_mode><uuid>{uuid}</uuid>
<pci><pci_bus_id>00000000:0{n}:00.0</pci_bus_id></pci><fb_memory_usage><total>24564 MiB</total><used>1 MiB</used>
<free>24563 MiB</free></fb_memory_usage><compute_mode>Default</compute_mode><utilization><gpu_util>0 %</gpu_util>
</utilization><temperature><gpu_temp>40 C</gpu_temp></temperature><processes></processes></gpu>"""


def shim(uuids: Sequence[str]) -> str:
    """Text of the program."""
    gpus = "\n".join(_GPU.format(n=n, uuid=uuid) for n, uuid in enumerate(uuids))
    return f"""#!/bin/sh
cat <<'END'
<?xml version="1.0" ?>
<nvidia_smi_log><driver_version>550.54.15</driver_version><cuda_version>12.4</cuda_version>
<attached_gpus>{len(uuids)}</attached_gpus>
{gpus}
</nvidia_smi_log>
END
"""
