"""What the engine can do, measured beside the floor of its database and beside other engines.

`python -m benchmarks` lists the scenarios; `python -m benchmarks drain dag` runs some of them.
"""
