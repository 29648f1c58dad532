"""The composition root: builds the parts, connects them, runs until a signal, and takes them down in order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from routerd.calibrator import Calibrator
from routerd.decisions import DecisionCache
from routerd.errors import RouterdError
from routerd.facts import FactSource
from routerd.flags import Flags, load_flags
from routerd.interfaces import DEVICE_KINDS, Workload
from routerd.logs import configure_logs, get_logger
from routerd.methods import Method, method_table
from routerd.plugins import PluginRegistry, load_plugins
from routerd.policies import PolicyKeeper
from routerd.policy import Vocabulary
from routerd.protocol import Calibrate
from routerd.reports import Reporter
from routerd.router import Router
from routerd.server import Server
from routerd.session import Session
from routerd.settings import Settings, load_settings
from routerd.store import Store
from routerd.worker.fleet import BackendState, Fleet
from routerd.worker.supervisor import WorkerSettings

_log = get_logger("daemon")


class Daemon:
    """One daemon. The constructor loads what can be refused (plugins, state, policy); :meth:`run` serves."""

    def __init__(self, settings: Settings, flags: Flags) -> None:
        self._settings = settings
        self._registry = load_plugins(settings)
        workloads = {workload.name: workload for workload in self._registry.workloads}
        self._fleet = Fleet(
            self._registry.backends, workloads, _worker_settings(settings, self._registry), self._backend_changed
        )
        self._server: Server
        self._flags = flags
        self._workloads = workloads

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises ``ConfigurationError`` kinds before anything is served."""
        settings, flags = self._settings, self._flags
        self._stopped = asyncio.Event()
        self._server = Server(settings, self._client_left)
        self._server.claim()
        store = Store(settings.state_dir, buffer_limit=settings.decision_buffer, kept=settings.decisions_kept)
        try:
            policies = PolicyKeeper(
                settings.policy_paths, vocabulary(self._registry, self._workloads), flags.as_mapping(), store
            )
            facts = FactSource(self._fleet, flags.as_mapping())
            self._router = Router(self._fleet, store, flags, facts, policies.load_first())
            policies.attach(self._router)
            self._calibrator = Calibrator(
                self._fleet,
                store,
                run_seconds=settings.calibration_run_seconds,
                when_idle=settings.calibrate_when_idle,
                on_change=self._router.changed,
            )
            cache = DecisionCache(self._router)
            reporter = Reporter(
                settings, flags, self._registry, self._fleet, self._router, cache, self._calibrator, policies, store,
                self._server.traffic,
            )  # fmt: skip
            methods = method_table(self._router, cache, self._fleet, store, policies, reporter, self._calibrate)
            await self._serve(policies, methods)
        finally:
            self._server.close()
            await asyncio.to_thread(store.close)

    async def _serve(self, policies: PolicyKeeper, methods: Mapping[str, Method]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        reloads: set[asyncio.Task[None]] = set()

        def reload() -> None:
            task = loop.create_task(policies.reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
        self._fleet.start()
        self._calibrator.start()
        await self._fleet.contract_ready(self._settings.worker_start_seconds)
        self._server.listen(methods)
        _log.info("serving", socket=str(self._settings.socket), pid=os.getpid())
        try:
            await self._stopped.wait()
            _log.info("draining", in_flight=self._server.in_flight)
            self._server.stop_accepting()
            cut = await self._server.drain(self._settings.drain_seconds)
            if cut:
                _log.warning("requests cut off", count=cut, after_seconds=self._settings.drain_seconds)
        finally:
            await self._calibrator.stop()
            self._server.close()
            await self._fleet.stop(2.0)
            _log.info("stopped")

    async def _calibrate(self, params: Calibrate) -> dict[str, object]:
        await self._calibrator.complete(params.workloads, again=params.again)
        return {"workloads": sorted(params.workloads or self._workloads)}

    def _backend_changed(self, backend: BackendState | None) -> None:
        if backend is not None and backend.state == "ready":
            self._calibrator.restore(backend)
        elif backend is None:
            self._server.disown({worker.incarnation for worker in self._fleet.workers if worker.up})
        self._router.changed()
        self._calibrator.nudge()

    def _client_left(self, session: Session) -> None:
        gone = session.close()
        self._fleet.forget_segments(gone)
        self._fleet.forget_client(session.number)


def vocabulary(registry: PluginRegistry, workloads: dict[str, Workload]) -> Vocabulary:
    """The names that a policy may use here."""
    return Vocabulary(
        workloads=frozenset(workloads),
        families=frozenset(workload.family for workload in workloads.values()),
        engines=frozenset(engine for workload in workloads.values() for engine in workload.engines),
        backends=frozenset(spec.name for spec in registry.backends),
        device_kinds=frozenset(DEVICE_KINDS),
    )


def _worker_settings(settings: Settings, registry: PluginRegistry) -> WorkerSettings:
    return WorkerSettings(
        threads=settings.cpu_threads,
        inline_bytes=int(settings.inline_array_bytes),
        task_timeout_seconds=settings.task_timeout_seconds,
        workload_modules=registry.workload_modules,
    )


def serve(config: Path | None) -> int:
    """Run a daemon in the foreground; returns its exit code. Problems go to standard error, one line each."""
    import sys

    import uvloop

    try:
        settings = load_settings(config)
        flags = load_flags(os.environ)
        if not flags["CPU_OPTIMIZATION"]:
            settings = settings.model_copy(update={"cpu_threads": 1})
        configure_logs(settings.log_level, settings.log_format, flags)
        daemon = Daemon(settings, flags)
        uvloop.run(daemon.run())
    except RouterdError as error:
        print(f"routerd: {error.code}: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0
