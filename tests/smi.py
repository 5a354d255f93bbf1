"""What ``nvidia-smi -q -x`` prints, as its documented format has it."""

HEAD = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
\t<timestamp>Sat Nov 21 10:00:00 2026</timestamp>
\t<driver_version>550.54.15</driver_version>
\t<cuda_version>12.4</cuda_version>
\t<attached_gpus>{count}</attached_gpus>
"""
TAIL = "</nvidia_smi_log>\n"
NEW_ECC = """<volatile><sram_correctable>5</sram_correctable>
<sram_uncorrectable_parity>0</sram_uncorrectable_parity><sram_uncorrectable_secded>{n}</sram_uncorrectable_secded>
<dram_correctable>0</dram_correctable><dram_uncorrectable>0</dram_uncorrectable></volatile>
<aggregate><dram_uncorrectable>9</dram_uncorrectable></aggregate>"""
OLD_ECC = """<volatile><single_bit><total>7</total></single_bit>
<double_bit><device_memory>{n}</device_memory><total>{n}</total></double_bit></volatile>"""
NO_ECC = (
    """<volatile><sram_uncorrectable>N/A</sram_uncorrectable><dram_uncorrectable>N/A</dram_uncorrectable></volatile>"""
)
PROCESS = """<process_info><gpu_instance_id>N/A</gpu_instance_id><compute_instance_id>N/A</compute_instance_id>
<pid>{pid}</pid><type>{type}</type><process_name>{name}</process_name><used_memory>{used}</used_memory></process_info>"""


def gpu(n: int = 0, **changes: str) -> str:
    value = {
        "uuid": f"GPU-{n:08d}-1111-2222-3333-444444444444",
        "product_name": "NVIDIA GeForce RTX 4090",
        "total": "24564 MiB",
        "reserved": "381 MiB",
        "used": "1000 MiB",
        "free": "23183 MiB",
        "gpu_util": "13 %",
        "gpu_temp": "41 C",
        "ecc": NO_ECC,
        "mig": "N/A",
        "mode": "Default",
        "processes": "",
        **changes,
    }
    return """\t<gpu id="00000000:0{n}:00.0">
\t\t<product_name>{product_name}</product_name>
\t\t<minor_number>{n}</minor_number>
\t\t<mig_mode><current_mig>{mig}</current_mig><pending_mig>{mig}</pending_mig></mig_mode>
\t\t<uuid>{uuid}</uuid>
\t\t<pci><pci_bus>0{n}</pci_bus><pci_bus_id>00000000:0{n}:00.0</pci_bus_id></pci>
\t\t<fb_memory_usage><total>{total}</total><reserved>{reserved}</reserved><used>{used}</used><free>{free}</free></fb_memory_usage>
\t\t<compute_mode>{mode}</compute_mode>
\t\t<utilization><gpu_util>{gpu_util}</gpu_util><memory_util>1 %</memory_util></utilization>
\t\t<ecc_errors>{ecc}</ecc_errors>
\t\t<temperature><gpu_temp>{gpu_temp}</gpu_temp><gpu_temp_max_threshold>99 C</gpu_temp_max_threshold></temperature>
\t\t<processes>{processes}</processes>
\t</gpu>
""".format(n=n, **value)


def log(*gpus: str) -> str:
    return HEAD.format(count=len(gpus)) + "".join(gpus) + TAIL
