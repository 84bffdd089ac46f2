"""What settings mean for a worker and its executors, in our own programs and in those that embed us."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.executors.base import ExecutorSettings, ProcessLimits
from engine.settings import Settings
from engine.worker.options import WorkerOptions


def worker_options(settings: Settings) -> WorkerOptions:
    return WorkerOptions(
        concurrency=settings.max_concurrency,
        queues=settings.queues,
        name=settings.worker_name,
        lease_seconds=settings.lease,
        beat_seconds=settings.beat,
        sweep_seconds=settings.sweep,
        poll_seconds=settings.poll,
        grace_seconds=settings.shutdown_timeout,
        retention_seconds=settings.retention,
    )


def executor_settings(
    settings: Settings, *, is_local: bool, protected: Iterable[str] = ()
) -> ExecutorSettings:
    """`is_local`: only programs of this machine can submit, so scripts are on unless switched off."""
    own = () if settings.config is None else (str(settings.config),)
    return ExecutorSettings(
        file_root=settings.file_root.absolute(),
        shell_policy="open" if settings.shell_policy == "open" else "",
        allow_scripts=is_local if settings.allow_scripts is None else settings.allow_scripts,
        allow_cli_skills=is_local if settings.allow_cli_skills is None else settings.allow_cli_skills,
        allow_private_network=settings.allow_private_network,
        limits=ProcessLimits(
            memory_mib=settings.process_memory_mib,
            cpu_seconds=settings.process_cpu_seconds,
            processes=settings.process_count,
            output_bytes=settings.process_output_bytes,
        ),
        protected_files=tuple(Path(name).absolute() for name in (*protected, *own)),
        functions=settings.functions,
        threads=settings.max_concurrency,
    )
