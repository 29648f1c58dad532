"""The policy in force: loaded whole, replaced whole, and kept when its successor is broken."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from routerd.errors import ConfigurationError, InvalidPolicy, NoCandidate
from routerd.logs import get_logger
from routerd.planner import ActivePolicy
from routerd.policy import Policy, Vocabulary, compile_policy, load_policy
from routerd.protocol import Ask, DecisionId, Nothing, PolicyPaths, Tail, failure
from routerd.router import Router
from routerd.session import Session
from routerd.store import Store
from routerd.types import Scalar

_log = get_logger("policy")


class PolicyKeeper:
    """Loads, activates and explains policies. ``failure`` holds what was wrong with the last attempt, until mended."""

    def __init__(
        self,
        configured: Sequence[Path],
        vocabulary: Vocabulary,
        flags: Mapping[str, Scalar | None],
        store: Store,
    ) -> None:
        self._configured = tuple(configured)
        self._paths = self._configured
        self._vocabulary = vocabulary
        self._flags = flags
        self._store = store
        self._router: Router | None = None
        self._changing = asyncio.Lock()
        self.failure: str | None = None
        self.activated_at = 0.0

    def load_first(self) -> ActivePolicy:
        """The configured policy, at start. Raises ``InvalidPolicy``."""
        return self._record(self._load(self._configured), os.getuid(), "start")

    def attach(self, router: Router) -> None:
        """From now on changes go to this router."""
        self._router = router

    @property
    def active(self) -> ActivePolicy:
        assert self._router is not None
        return self._router.active

    async def reload(self) -> None:
        """Read the files again (SIGHUP). A broken policy leaves the last good one in force, and ``failure`` says why."""
        try:
            await self._change(self._paths, os.getuid(), "reload")
        except ConfigurationError as error:
            _log.error("policy not reloaded, the last good one stays in force", reason=error.message)

    async def apply(self, session: Session, params: PolicyPaths) -> dict[str, Any]:
        """Activate the policy at these absolute paths (the configured ones when empty); returns once it is in force."""
        paths = tuple(Path(path) for path in params.paths) or self._configured
        for path in paths:
            if not path.is_absolute():
                raise InvalidPolicy(f"{path}: the daemon needs an absolute path")
        before = self.active
        after = await self._change(paths, session.uid, "apply")
        return {
            "generation": after.generation,
            "digest": after.policy.digest,
            "previous_digest": before.policy.digest,
            "changed": after.policy.digest != before.policy.digest,
            "files": after.policy.files,
            "warnings": [str(warning) for warning in after.policy.warnings],
        }

    async def show(self, _session: Session, _params: Nothing) -> dict[str, Any]:
        """The policy in force, and whether the files on disk still say the same."""
        active = self.active
        try:
            on_disk = (await asyncio.to_thread(self._load, self._paths)).digest
            problem = None
        except ConfigurationError as error:
            on_disk, problem = None, error.message
        return {
            **self.summary(),
            "differs_from_disk": on_disk != active.policy.digest,
            "disk_problem": problem,
            "warnings": [str(warning) for warning in active.policy.warnings],
            "effective": active.policy.to_dict(),
        }

    def summary(self) -> dict[str, Any]:
        """The policy in force in a few fields, for ``status``."""
        active = self.active
        return {
            "name": active.policy.name,
            "digest": active.policy.digest,
            "generation": active.generation,
            "files": active.policy.files,
            "activated_at": self.activated_at,
            "until_restart": self._paths != self._configured,
            "failure": self.failure,
        }

    def evaluate(self, session: Session, ask: Ask) -> dict[str, Any]:
        """One task through the policy with the whole trace; nothing is recorded or run.

        Where nothing may run the task, which is when a trace is wanted most, ``decision`` is null and ``refusal`` says why.
        """
        assert self._router is not None
        _task, facts = self._router.question(ask, session)
        answer: dict[str, Any] = {
            "decision": None,
            "refusal": None,
            "facts": facts,
            "trace": self.active.compiled.trace(facts),
        }
        try:
            answer["decision"] = self._router.plan(ask, session).decision
        except NoCandidate as error:
            answer["refusal"] = failure(error)
        return answer

    async def explain(self, _session: Session, params: DecisionId) -> dict[str, Any]:
        """A recorded decision with the trace of its recorded facts through the policy now in force."""
        record = await asyncio.to_thread(self._store.decision, params.decision_id)
        return {
            "record": record,
            "trace": self.active.compiled.trace(record.facts),
            "same_policy": record.decision.policy_digest == self.active.policy.digest,
        }

    async def history(self, _session: Session, params: Tail) -> Any:
        """The newest generations: digest, author, time, reason."""
        return await asyncio.to_thread(self._store.policy_history, params.limit)

    async def _change(self, paths: tuple[Path, ...], author: int, reason: str) -> ActivePolicy:
        assert self._router is not None
        async with self._changing:
            try:
                policy = await asyncio.to_thread(self._load, paths)
            except ConfigurationError as error:
                self.failure = error.message
                raise
            active = await asyncio.to_thread(self._record, policy, author, reason)
            self._paths = paths
            self._router.activate(active)
            self.failure = None
            _log.info("policy active", generation=active.generation, digest=policy.digest[:12], reason=reason)
            return active

    def _load(self, paths: tuple[Path, ...]) -> Policy:
        return load_policy(paths, self._vocabulary, self._flags)

    def _record(self, policy: Policy, author: int, reason: str) -> ActivePolicy:
        compiled = compile_policy(policy, self_uid=os.getuid())
        newest = self._store.policy_history(1)
        if newest and newest[0].digest == policy.digest:
            generation = newest[0].generation  # nothing changed: a restart or an idle reload is no new generation
        else:
            content = msgspec.json.encode(policy.to_dict()).decode()
            generation = self._store.add_policy(policy.digest, author, content, reason)
        self.activated_at = time.time()
        return ActivePolicy(policy, compiled, generation)
