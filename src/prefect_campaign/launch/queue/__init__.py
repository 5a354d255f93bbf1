"""What queue schedulers other than Slurm have in common: notes, looks, doubts, cancelling, here or over SSH."""
