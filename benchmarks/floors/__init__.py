"""What a database can do at best: the same rows moved by a bare driver, without an engine.

A form is one layout of rows and the fastest SQL known for it. `same_rows` moves the very rows that the
engine writes for a task, in the engine's own tables; `minimal` moves the leanest job table.
"""
