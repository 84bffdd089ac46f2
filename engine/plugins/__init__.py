"""Plug-ins: objects that are called at events of workflows and tasks: ours, and the door for all others.

Knows nothing of workers, databases or executors; `engine.executors.plugin` calls them.
"""
