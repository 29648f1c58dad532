"""The Unix socket server: who connects, what they ask, and the reply; everything behind it is a method table."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import msgspec

from routerd import __version__
from routerd.access import peer_of, require, role_of
from routerd.connection import Connection
from routerd.descriptors import can_spare, descriptor_limit
from routerd.errors import (
    BadRequest,
    Cancelled,
    LimitExceeded,
    ProtocolError,
    RouterdError,
    ShuttingDown,
    UnknownMethod,
    UnsupportedProtocol,
    suggest,
)
from routerd.logs import get_logger
from routerd.methods import Method
from routerd.protocol import (
    HEADER,
    PROTOCOL_VERSIONS,
    UNDECODABLE,
    Hello,
    Limits,
    Reply,
    Request,
    SegmentInfo,
    Welcome,
    decode_error,
    encode,
    encode_frame,
    failure,
)
from routerd.routing.slots import SIZE
from routerd.session import Session
from routerd.settings import Settings
from routerd.table import DecisionTable

_log = get_logger("server")

_BACKLOG = 4096
_ACCEPTS_PER_TURN = 64
_ACCEPT_PAUSE_SECONDS = 0.1
_HAND_BACK_SECONDS = 0.5  # for replies to reach clients that read them
_HANDED_BACK = "the daemon shuts down before this is done; the next daemon takes it"
_RESULT_START, _RESULT_KEY = b"\x82\xa2id", b"\xa6result"  # MessagePack: a map of two, its first key, its second key
_request_decoder = msgspec.msgpack.Decoder(Request)
_hello_decoder = msgspec.msgpack.Decoder(Hello)


class Server:
    """Accepts clients and dispatches their requests to a method table. ``on_leave`` is told of every client that goes."""

    def __init__(self, settings: Settings, on_leave: Callable[[Session], None]) -> None:
        self._settings = settings
        self._methods: Mapping[str, Method] = {}
        self._table: DecisionTable | None = None
        self._on_leave = on_leave
        self._listener: socket.socket | None = None
        self._clients: dict[Connection, Session | None] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._draining = False
        self._handing_back = False
        self._crowded = False  # out of descriptors, and the log says so
        self.requests = 0
        self.errors = 0
        self.accepted = 0
        self.refused = 0
        self.limits = Limits(
            max_frame_bytes=int(settings.max_frame_bytes),
            max_in_flight_per_client=settings.max_in_flight_per_client,
            max_arrays_per_task=settings.max_arrays_per_task,
            max_segment_bytes=int(settings.max_segment_bytes),
            max_segment_bytes_per_client=int(settings.max_segment_bytes_per_client),
            inline_array_bytes=int(settings.inline_array_bytes),
        )

    @property
    def connected(self) -> int:
        return len(self._clients)

    @property
    def in_flight(self) -> int:
        """Requests that await their reply, over all clients."""
        return sum(len(session.tasks) for session in self._clients.values() if session is not None)

    def traffic(self) -> dict[str, int]:
        """Counters for ``status``."""
        return {
            "clients": self.connected,
            "in_flight": self.in_flight,
            "requests": self.requests,
            "errors": self.errors,
            "accepted": self.accepted,
            "refused": self.refused,
        }

    def listen(self, methods: Mapping[str, Method], table: DecisionTable) -> None:
        """Bind and start serving ``methods`` and ``table``. The instance must have been claimed."""
        self._methods = methods
        self._table = table
        path = Path(self._settings.socket)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0))
        mask = os.umask(0o777 & ~self._settings.socket_mode)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def stop_accepting(self) -> None:
        """No new clients, no new work; what is in flight goes on."""
        self._draining = True
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            Path(self._settings.socket).unlink(missing_ok=True)

    async def drain(self, seconds: float) -> int:
        """Wait until no work is in flight. What is after ``seconds`` is handed back to its clients; returns how much that was.

        Who only waits for something else does not count.
        """
        await self._settle(seconds)
        left = list(self._working)
        self._handing_back = True
        for task in left:
            task.cancel()
        if left:
            await self._settle(_HAND_BACK_SECONDS)
        return len(left)

    async def _settle(self, seconds: float) -> None:
        """Wait until no work is in flight and the kernel has taken all replies, for so long at most."""
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            if not self._working and all(connection.drained for connection in self._clients):
                return
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Disconnect everybody and remove the socket."""
        self.stop_accepting()
        for connection in list(self._clients):
            connection.close("the daemon is shutting down")

    def disown(self, alive: Collection[int]) -> None:
        """Workers ended: clients are no longer charged for results that those workers held."""
        for session in self._clients.values():
            if session is not None:
                session.disown(alive)

    # -- connections ------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if self._listener is None:
                return
            try:
                peer, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor at all: those connected go on, newcomers wait in the backlog
                if not self._crowded:
                    self._crowded = True
                    _log.error("cannot accept a client", reason=error.strerror, clients=self.connected)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                loop.call_later(_ACCEPT_PAUSE_SECONDS, self._accept_again)
                return
            self._welcome(peer)

    def _accept_again(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _welcome(self, peer: socket.socket) -> None:
        self.accepted += 1
        connection: Connection
        connection = Connection(
            peer,
            max_frame_bytes=self.limits.max_frame_bytes,
            max_unsent_bytes=self._settings.max_output_buffer_bytes,
            on_frame=lambda body: self._frame(connection, peer, body),
            on_close=lambda reason: self._left(connection, reason),
        )
        self._clients[connection] = None
        error = self._no_room_for(peer)
        if error is not None:
            self.refused += 1
            connection.send(encode_frame(Reply(0, error=failure(error))))
            connection.close("too many clients")

    def _no_room_for(self, peer: socket.socket) -> LimitExceeded | None:
        """Why this client is one too many, if it is."""
        clients, limit = len(self._clients), self._settings.max_connections
        if clients > limit:
            return LimitExceeded(f"{limit} clients are connected, which is the limit (max_connections)", limit=limit)
        if can_spare(peer.fileno()):
            self._crowded = False
            return None
        if not self._crowded:
            self._crowded = True
            _log.error("no descriptor to spare for a client", clients=clients - 1, limit=descriptor_limit())
        return LimitExceeded(
            f"the daemon has {clients - 1} clients and no descriptor to spare for another: it may open {descriptor_limit()}; "
            "raise its limit (ulimit -n, LimitNOFILE of a systemd unit, launchctl limit maxfiles) or disconnect clients",
            limit=descriptor_limit(),
        )

    def _left(self, connection: Connection, reason: str) -> None:
        session = self._clients.pop(connection, None)
        if session is not None:
            _log.debug("client left", client=session.name, number=session.number, reason=reason)
            self._on_leave(session)

    # -- requests -----------------------------------------------------------------------------------------------------

    def _frame(self, connection: Connection, peer: socket.socket, body: bytes) -> bool:
        """Handle one message; whether it began a task."""
        self.requests += 1
        try:
            request = _request_decoder.decode(body)
        except UNDECODABLE as error:
            self._fail(connection, 0, decode_error(error, "the request"))
            return False
        session = self._clients.get(connection)
        try:
            if session is None:
                self._greet(connection, peer, request)
            else:
                return self._dispatch(connection, session, request)
        except RouterdError as error:
            self._fail(connection, request.id, error)
            if session is None:
                connection.close(error.message)
        except UNDECODABLE as error:
            self._fail(connection, request.id, decode_error(error, f"params of {request.method}"))
        except Exception as error:  # a defect here must not take the daemon and every client with it
            _log.exception("internal error", method=request.method)
            self._fail(connection, request.id, RouterdError(f"internal error: {type(error).__name__}: {error}"))
        return False

    def _greet(self, connection: Connection, peer: socket.socket, request: Request) -> None:
        if request.method != "hello":
            raise ProtocolError(f"the first message must be hello, got {request.method}")
        hello = _hello_decoder.decode(request.params)
        common = [version for version in PROTOCOL_VERSIONS if version in hello.protocols]
        if not common:
            raise UnsupportedProtocol(
                f"the client speaks protocol {list(hello.protocols)}, this daemon {list(PROTOCOL_VERSIONS)}",
                supported=list(PROTOCOL_VERSIONS),
            )
        credentials = peer_of(peer)
        role = role_of(credentials, os.getuid(), self._settings)
        segments, descriptors = self._table_for(hello)
        session = Session(
            hello.client[:64],
            credentials.uid,
            credentials.gid,
            credentials.pid,
            role,
            self.limits,
            in_process=hello.in_process and bool(segments) and role != "read",
        )
        self._clients[connection] = session
        _log.debug("client joined", client=session.name, number=session.number, uid=session.uid, role=role)
        size = sum(info.size for info in segments)
        welcome = Welcome(max(common), __version__, role, self.limits, size)
        reply = Reply(request.id, msgspec.Raw(encode(welcome)), segments=segments)
        connection.send(encode_frame(reply), descriptors)

    def _table_for(self, hello: Hello) -> tuple[tuple[SegmentInfo, ...], list[int]]:
        """The decision table for a client that wants it. Without descriptors to spare it does without: it can ask."""
        if not (hello.table and self._settings.decision_table) or self._table is None:
            return (), []
        try:
            return (SegmentInfo(0, SIZE),), [self._table.descriptor()]
        except OSError as error:
            _log.warning("no decision table for a client", reason=error.strerror)
            return (), []

    def _dispatch(self, connection: Connection, session: Session, request: Request) -> bool:
        method = self._methods.get(request.method)
        if method is None:
            raise UnknownMethod(
                f"no method {request.method}{suggest(request.method, self._methods)}", method=request.method
            )
        require(session.role, method.role, request.method)
        if self._draining and method.works:
            raise ShuttingDown("the daemon is shutting down and takes no new work")
        if method.immediate is not None:
            connection.send(_result_frame(request.id, method.immediate(session, request.params)))
            return False
        if len(session.tasks) >= self.limits.max_in_flight_per_client:
            raise LimitExceeded(
                f"{len(session.tasks)} requests of this client are in flight, which is the limit (max_in_flight_per_client); await some first",
                limit=self.limits.max_in_flight_per_client,
            )
        assert method.eventual is not None
        if request.id in session.tasks:
            raise BadRequest(
                f"request {request.id} still awaits its reply, and goes on; give the next one another id",
                request=request.id,
            )
        task = asyncio.get_running_loop().create_task(self._serve(connection, session, request, method))
        session.tasks[request.id] = task
        if method.works:
            self._working.add(task)
        task.add_done_callback(partial(self._ended, connection, session, request.id))
        return True

    async def _serve(self, connection: Connection, session: Session, request: Request, method: Method) -> None:
        assert method.eventual is not None
        try:
            try:
                attached = await method.eventual(session, request.params)
            finally:  # before the reply: a client that counts may send its next request at once
                session.tasks.pop(request.id, None)
        except RouterdError as error:
            self._fail(connection, request.id, error)
        except UNDECODABLE as error:
            self._fail(connection, request.id, decode_error(error, f"params of {request.method}"))
        except Exception as error:  # see _frame
            _log.exception("internal error", method=request.method)
            self._fail(connection, request.id, RouterdError(f"internal error: {type(error).__name__}: {error}"))
        else:
            limit = self._settings.max_output_buffer_bytes
            if len(attached.result) > limit and not attached.segments:
                size = len(attached.result)
                problem = (
                    f"the answer to {request.method} has {size} bytes, the limit is {limit} (max_output_buffer_bytes)"
                )
                self._fail(connection, request.id, LimitExceeded(f"{problem}; ask for less", limit=int(limit)))
                return
            reply = Reply(request.id, msgspec.Raw(attached.result), segments=attached.segments)
            connection.send(encode_frame(reply), attached.descriptors)

    def _ended(self, connection: Connection, session: Session, request_id: int, task: asyncio.Task[None]) -> None:
        """Tidy up after a task. One that was cancelled, perhaps before it began, is answered here."""
        self._working.discard(task)
        if session.tasks.get(request_id) is task:
            del session.tasks[request_id]
        if task.cancelled():
            error = (
                ShuttingDown(_HANDED_BACK) if self._handing_back else Cancelled(f"request {request_id} was cancelled")
            )
            self._fail(connection, request_id, error)

    def _fail(self, connection: Connection, request_id: int, error: RouterdError) -> None:
        self.errors += 1
        _log.debug("request refused", code=error.code, reason=error.message)
        connection.send(encode_frame(Reply(request_id, error=failure(error))))


def _result_frame(request_id: int, result: bytes) -> bytes:
    """``encode_frame(Reply(request_id, Raw(result)))``, put together by hand: the hottest line of the daemon."""
    number = encode(request_id)
    length = len(_RESULT_START) + len(number) + len(_RESULT_KEY) + len(result)
    return b"".join((HEADER.pack(length), _RESULT_START, number, _RESULT_KEY, result))
