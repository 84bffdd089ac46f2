"""Imported once by the process that all `WarmProcess`es are forked from. Nothing may run here."""

import uvicorn.logging  # noqa: F401
import uvloop  # noqa: F401

import engine.api.app
import engine.cli
import engine.cli.run
import engine.cli.server
import engine.cli.worker
import engine.worker.service  # noqa: F401
