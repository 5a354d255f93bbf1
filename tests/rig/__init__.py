"""The rig: a real Slurm, Docker engine, PostgreSQL and Redis on one Debian machine, beside whatever else runs there.

`make rig` from the root of the checkout; standard library only, for it runs before anything is installed.
"""
