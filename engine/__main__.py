"""`python -m engine`: the same program as `task-engine`."""

from engine.cli import main

if __name__ == "__main__":
    main()
