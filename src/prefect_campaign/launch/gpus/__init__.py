"""The GPUs of a machine: by the driver, by nvidia-smi, and as the environment shows them."""
