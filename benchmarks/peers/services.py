"""Other ways to have a product computed elsewhere: a FastAPI route on a Unix socket, and a Ray actor.

Each is one process of its own, which is asked for one product at a time and says how long the kernel took.
``python -m benchmarks.peers.services SOCKET`` serves the route until it is terminated.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._peers import product
from benchmarks.peers import Missing, missing, versions
from benchmarks.peers.fastapi_route import connect

_ROUTE = "FastAPI route on a Unix socket"
_ACTOR = "Ray actor"
_CHUNK = 1 << 20
_STORE_BYTES = 256 << 20

_Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Service:
    """Who multiplies two arrays: gives the product and the seconds that the kernel took."""

    name: str
    multiply: Callable[[_Array, _Array], tuple[_Array, float]]
    software: str


@contextlib.contextmanager
def all_services() -> Iterator[list[Service | Missing]]:
    """Every service, running; one that is not installed is missing."""
    with fastapi_route() as route, ray_actor() as actor:
        yield [route, actor]


@contextlib.contextmanager
def fastapi_route() -> Iterator[Service | Missing]:
    """Arrays travel as the bytes of the bodies, over one connection that is kept open."""
    if (absent := missing(_ROUTE, "fastapi", "uvicorn", "uvloop")) is not None:
        yield absent
        return
    with tempfile.TemporaryDirectory(prefix="rb-") as directory:
        path = Path(directory) / "http.sock"
        process = subprocess.Popen([sys.executable, "-m", __name__, str(path)])
        try:
            with connect(path, process) as connection, connection.makefile("rwb", buffering=_CHUNK) as stream:
                yield Service(_ROUTE, lambda a, b: _post(stream, a, b), versions("fastapi", "uvicorn"))
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def ray_actor() -> Iterator[Service | Missing]:
    """An actor on a cluster of this machine alone; arrays that are not small travel through Ray's object store."""
    if (absent := missing(_ACTOR, "ray", extra="ray")) is not None:
        yield absent
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        ray.init(
            num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            object_store_memory=_STORE_BYTES, _temp_dir=directory,
        )  # fmt: skip
        try:
            actor = ray.remote(_Multiplier).remote()
            yield Service(_ACTOR, lambda a, b: ray.get(actor.multiply.remote(a, b)), versions("ray"))
        finally:
            ray.shutdown()


class _Multiplier:
    def multiply(self, a: _Array, b: _Array) -> tuple[_Array, float]:
        return product(a, b)


def _post(stream: Any, a: _Array, b: _Array) -> tuple[_Array, float]:
    stream.write(
        f"POST /product HTTP/1.1\r\nHost: peer\r\nContent-Length: {a.nbytes + b.nbytes}\r\n"
        f"X-Shape: {a.shape[0]} {a.shape[1]} {b.shape[1]}\r\n\r\n".encode()
    )
    stream.write(a.data)
    stream.write(b.data)
    stream.flush()
    status = stream.readline()
    if not status.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"the FastAPI peer answered {status!r}")
    headers = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        headers[name.lower()] = value
    content = stream.read(int(headers[b"content-length"]))
    return np.frombuffer(content).reshape(a.shape[0], b.shape[1]), float(headers[b"x-seconds"])


def _serve(path: str) -> None:
    import uvicorn
    from fastapi import FastAPI, Request, Response

    app = FastAPI()

    async def answer(request: Request) -> Response:
        rows, inner, columns = map(int, request.headers["x-shape"].split())
        values = np.frombuffer(await request.body())
        a, b = values[: rows * inner].reshape(rows, inner), values[rows * inner :].reshape(inner, columns)
        c, seconds = product(a, b)
        return Response(c.tobytes(), media_type="application/octet-stream", headers={"X-Seconds": repr(seconds)})

    answer.__annotations__ = {"request": Request, "return": Response}  # FastAPI looks for the names in this module
    app.post("/product")(answer)
    uvicorn.run(app, uds=path, loop="uvloop", log_level="warning", access_log=False)


if __name__ == "__main__":
    _serve(sys.argv[1])
