"""From a command line to a serving daemon, in the order that is soonest ready.

Settings, flags and plugins come first: they say which workers there will be. The workers' processes then start on other
cores while this one still imports the rest of the daemon.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from routerd.errors import RouterdError
from routerd.flags import load_flags
from routerd.instance import claim
from routerd.logs import configure_logs
from routerd.plugins import load_plugins
from routerd.settings import load_settings
from routerd.worker.fleet import Fleet
from routerd.worker.launch import WorkerSettings


def serve(config: Path | None) -> int:
    """Run a daemon in the foreground; returns its exit code. Problems go to standard error, one line each."""
    try:
        settings = load_settings(config)
        flags = load_flags(os.environ)
        if not flags["CPU_OPTIMIZATION"]:
            settings = settings.model_copy(update={"cpu_threads": 1})
        claim(settings.socket, shared=settings.socket_mode == 0o660)  # held until the process ends
        _raise_descriptor_limit()
        registry = load_plugins(settings)
        worker_settings = WorkerSettings(
            threads=settings.cpu_threads,
            inline_bytes=int(settings.inline_array_bytes),
            task_timeout_seconds=settings.task_timeout_seconds,
            start_seconds=settings.worker_start_seconds,
            workload_modules=registry.workload_modules,
            hang_factor=settings.hang_factor,
            hang_floor_seconds=settings.hang_floor_seconds,
            silence_seconds=settings.worker_silence_seconds,
            memory_bytes=int(settings.worker_memory_bytes),
            queue_limit=settings.max_queued_per_backend,
            batching=settings.batching,
        )
        fleet = Fleet(registry.backends, {workload.name: workload for workload in registry.workloads}, worker_settings)
        fleet.spawn()

        configure_logs(settings.log_level, settings.log_format, flags)
        import uvloop

        from routerd.daemon import Daemon

        uvloop.run(Daemon(settings, flags, registry, fleet).run())
    except RouterdError as error:
        print(f"routerd: {error.code}: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


def _raise_descriptor_limit() -> None:
    """Every client and every segment takes a descriptor; the usual soft limit of 1024 is for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (soft, resource.RLIM_INFINITY):  # macOS says infinity and refuses it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
