"""The client library: :func:`connect` here, its asyncio twin in :mod:`routerd.aio`."""

from __future__ import annotations

from routerd.client.result import TaskResult
from routerd.client.synchronous import Router, connect

__all__ = ["Router", "TaskResult", "connect"]
