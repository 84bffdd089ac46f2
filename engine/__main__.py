"""`python -m engine` and the installed commands: quiet when interrupted, from the first moment on."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        # Here, not above: it takes long enough for somebody to press Ctrl-C meanwhile.
        from engine.cli import main as program
    except KeyboardInterrupt:
        sys.exit(130)
    program()


def server() -> None:
    try:
        from engine.cli.standalone import main as program
    except KeyboardInterrupt:
        sys.exit(130)
    program()


if __name__ == "__main__":
    main()
