"""The composition root: builds the parts, connects them, runs until a signal, and takes them down in order."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Mapping

from routerd.calibrator import Calibrator
from routerd.decisions import DecisionCache
from routerd.facts import FactSource
from routerd.flags import Flags
from routerd.heap import TIDY_SECONDS, system_trim
from routerd.logs import get_logger
from routerd.methods import Method, method_table
from routerd.model_keeper import ModelKeeper
from routerd.planner import Planner
from routerd.plugins import PluginRegistry
from routerd.policies import PolicyKeeper
from routerd.protocol import Calibrate
from routerd.releases import Releases
from routerd.reported import ReportedWork
from routerd.reports import Reporter
from routerd.router import Router
from routerd.server import Server
from routerd.session import Session
from routerd.settings import Settings
from routerd.store import Store
from routerd.table import DecisionTable
from routerd.vocabulary import vocabulary
from routerd.worker.fleet import BackendState, Fleet

_log = get_logger("daemon")


class Daemon:
    """One daemon, made of a claimed socket, loaded plugins and a fleet whose processes may already be starting."""

    def __init__(self, settings: Settings, flags: Flags, registry: PluginRegistry, fleet: Fleet) -> None:
        self._settings = settings
        self._flags = flags
        self._registry = registry
        self._fleet = fleet

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises ``ConfigurationError`` kinds before anything is served."""
        settings, flags = self._settings, self._flags
        self._stopped = asyncio.Event()
        self._server = Server(settings, self._client_left)
        store = Store(settings.state_dir, buffer_limit=settings.decision_buffer, kept=settings.decisions_kept)
        try:
            policies = PolicyKeeper(settings.policy_paths, vocabulary(self._registry), flags.as_mapping(), store)
            facts = FactSource(
                self._fleet, flags.as_mapping(), self._registry.sensors, device_watts=settings.device_watts
            )
            releases = Releases(self._fleet)
            planner = Planner(
                self._fleet,
                flags,
                power=facts.power,
                free_bytes=facts.free_bytes,
                in_process_seconds=settings.in_process_seconds,
            )
            self._router = Router(self._fleet, store, flags, facts, policies.load_first(), releases, planner)
            policies.attach(self._router)
            self._calibrator = Calibrator(
                self._fleet,
                store,
                run_seconds=settings.calibration_run_seconds,
                when_idle=settings.calibrate_when_idle,
                on_change=self._router.changed,
                form_teams=lambda: planner.form_teams(self._router.active.policy),
            )
            self._keeper = ModelKeeper(
                settings.models_dir,
                int(settings.max_model_bytes),
                self._fleet,
                releases,
                self._calibrator,
                self._router.changed,
            )
            cache = DecisionCache(self._router)
            self._table = DecisionTable(self._router, self._fleet)
            reported = ReportedWork(self._router, self._fleet)
            reporter = Reporter(
                settings, flags, self._registry, self._fleet, self._router, cache, self._calibrator, policies, store,
                self._server.traffic, self._table, reported,
            )  # fmt: skip
            methods = method_table(
                self._router, cache, self._fleet, store, policies, reporter, self._calibrate, self._table, reported
            )
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
        try:
            await self._keeper.start()
            await self._fleet.start(self._settings.worker_start_seconds, self._backend_changed)
            self._table.start()
            self._router.on_drift = self._router.executor.on_failure = self._fleet.on_want = self._calibrator.nudge
            self._server.listen(methods, self._table)
            self._calibrator.start()
            _settle_memory()
            self._trim = system_trim()
            self._tidy_later()
            _log.info("serving", socket=str(self._settings.socket), pid=os.getpid())
            await self._stopped.wait()
            _log.info("draining", in_flight=self._server.in_flight)
            self._server.stop_accepting()
            returned = await self._server.drain(self._settings.drain_seconds)
            if returned:
                _log.warning("requests handed back", count=returned, after_seconds=self._settings.drain_seconds)
        finally:
            self._table.stop()
            await self._keeper.stop()
            await self._calibrator.stop()
            self._server.close()
            await self._fleet.stop(2.0)
            _log.info("stopped")

    def _tidy_later(self) -> None:
        asyncio.get_running_loop().call_later(TIDY_SECONDS, self._tidy)

    def _tidy(self) -> None:
        self._trim()
        self._tidy_later()

    async def _calibrate(self, params: Calibrate) -> dict[str, object]:
        names = [self._router.workload(name).name for name in params.workloads]
        await self._calibrator.complete(names, again=params.again)
        return {"workloads": sorted(names or self._fleet.workloads)}

    def _backend_changed(self, backend: BackendState | None) -> None:
        if backend is not None and backend.state == "ready":
            self._calibrator.restore(backend)
            self._keeper.backend_ready(backend)
        elif backend is None:
            self._server.disown({worker.incarnation for worker in self._fleet.workers if worker.up})
        self._router.changed()
        self._calibrator.nudge()

    def _client_left(self, session: Session) -> None:
        gone = session.close()
        self._fleet.forget_segments(gone)
        self._fleet.forget_client(session.number)


def _settle_memory() -> None:
    """What start-up made stays: collections need not walk it, a full one of which takes some 25 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
