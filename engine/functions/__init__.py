"""Python functions as tasks: how they are written, registered, called, and what they are given.

Knows nothing of workers, databases or executors; `engine.executors.function` performs them.
"""
