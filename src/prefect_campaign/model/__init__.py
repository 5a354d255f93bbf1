"""What a campaign is: the spec, its plan of experiments, states, ids and errors.

The lowest layer: it imports nothing else of this project.
"""
