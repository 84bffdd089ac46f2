"""Streams: items that come from outside without end, gathered into batches that functions handle.

Knows nothing of databases, workers or executors; what it needs of them are the protocols of `ports`.
"""
