"""What the numbers say: comparisons, stage verdicts, the pilot decision, cost, early stop and search.

Pure functions over the spec, the plan and views of experiments: no I/O, no clock, no model.
"""
