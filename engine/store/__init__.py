"""How things are kept: the only package that builds or runs SQL.

Store functions take an open `Transaction` and never commit. They are synchronous: a small pool of
threads runs them (`database.py`), and the same functions work on a connection that a user hands in.
"""
