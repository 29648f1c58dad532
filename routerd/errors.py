"""The exception tree. Every class has a stable wire ``code`` and the exit code ``routerctl`` ends with.

::

    RouterdError                  internal
    ├── BadRequest                bad_request
    │   ├── UnknownMethod         unknown_method
    │   ├── UnknownWorkload       unknown_workload
    │   ├── UnknownParameter      unknown_parameter
    │   ├── InvalidParameter      invalid_parameter
    │   ├── InvalidArray          invalid_array
    │   ├── UnknownSegment        unknown_segment
    │   ├── UnknownBackend        unknown_backend
    │   ├── UnknownModel          unknown_model
    │   └── UnknownDecision       unknown_decision
    ├── LimitExceeded             limit_exceeded
    ├── ProtocolError             protocol_error
    │   ├── MalformedFrame        malformed_frame
    │   ├── FrameTooLarge         frame_too_large
    │   └── UnsupportedProtocol   unsupported_protocol
    ├── PermissionDenied          permission_denied
    ├── ConfigurationError        invalid_configuration
    │   ├── InvalidFlag           invalid_flag
    │   ├── InvalidPolicy         invalid_policy
    │   ├── AlreadyRunning        already_running
    │   └── StateUnwritable       state_unwritable
    ├── PluginError               plugin_error
    ├── InvalidModel              invalid_model
    ├── Unavailable               unavailable
    ├── NoCandidate               no_candidate
    ├── ExecutionError            execution_failed
    │   ├── WorkerCrashed         worker_crashed
    │   ├── OutOfMemory           out_of_memory
    │   ├── TaskTimeout           timeout
    │   └── TaskQuarantined       task_quarantined
    ├── DeadlineUnmeetable        deadline_unmeetable
    ├── Cancelled                 cancelled
    ├── Overloaded                overloaded
    ├── ShuttingDown              shutting_down
    └── DaemonUnreachable         daemon_unreachable
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar


class RouterdError(Exception):
    """Base of all errors of routerd.

    ``message`` says what was wrong, where, and what to do; ``detail`` carries the same facts as data.
    """

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.detail: dict[str, Any] = detail


class BadRequest(RouterdError):
    """The request cannot be understood or is out of bounds; sending it again unchanged cannot help."""

    code = "bad_request"
    exit_code = 2


class UnknownMethod(BadRequest):
    """The protocol has no such method."""

    code = "unknown_method"


class UnknownWorkload(BadRequest):
    """The catalogue has no such workload."""

    code = "unknown_workload"


class UnknownParameter(BadRequest):
    """The workload has neither a parameter nor an array of that name."""

    code = "unknown_parameter"


class InvalidParameter(BadRequest):
    """A parameter is missing, of the wrong type, or outside its bounds."""

    code = "invalid_parameter"


class InvalidArray(BadRequest):
    """An array is missing, or its shape, dtype, size or content does not fit the workload."""

    code = "invalid_array"


class UnknownSegment(BadRequest):
    """The client refers to a shared-memory segment that it does not own."""

    code = "unknown_segment"


class UnknownBackend(BadRequest):
    """No plugin offers a backend of that name."""

    code = "unknown_backend"


class UnknownModel(BadRequest):
    """The models directory has no such model, or not that version of it."""

    code = "unknown_model"


class UnknownDecision(BadRequest):
    """No decision with that id is kept."""

    code = "unknown_decision"


class LimitExceeded(RouterdError):
    """A limit that was told in ``hello`` would be passed."""

    code = "limit_exceeded"
    exit_code = 2


class ProtocolError(RouterdError):
    """The byte stream does not follow the protocol."""

    code = "protocol_error"


class MalformedFrame(ProtocolError):
    """A frame is not a valid message."""

    code = "malformed_frame"


class FrameTooLarge(ProtocolError):
    """A frame announces more bytes than the limit told in ``hello``."""

    code = "frame_too_large"


class UnsupportedProtocol(ProtocolError):
    """Client and daemon have no protocol version in common."""

    code = "unsupported_protocol"


class PermissionDenied(RouterdError):
    """The peer's role does not include the method."""

    code = "permission_denied"
    exit_code = 7


class ConfigurationError(RouterdError):
    """Settings, flags, policies or directories keep the daemon from starting or reloading."""

    code = "invalid_configuration"
    exit_code = 3


class InvalidFlag(ConfigurationError):
    """An environment flag has a value that its type does not allow."""

    code = "invalid_flag"


class InvalidPolicy(ConfigurationError):
    """A policy has errors; ``detail['problems']`` lists each with file, line and column."""

    code = "invalid_policy"


class AlreadyRunning(ConfigurationError):
    """Another daemon holds the lock of this socket."""

    code = "already_running"


class StateUnwritable(ConfigurationError):
    """The state directory cannot be created or written."""

    code = "state_unwritable"


class PluginError(RouterdError):
    """A plugin breaks its contract; it fails alone."""

    code = "plugin_error"


class InvalidModel(RouterdError):
    """A model's files cannot be accepted; the message says why and what to do."""

    code = "invalid_model"


class Unavailable(RouterdError):
    """A device or backend is absent here. The message is the reason, in one line, and is shown to users."""

    code = "unavailable"


class NoCandidate(RouterdError):
    """Policy, tolerance and availability together leave no backend; ``detail['rejected']`` says why for each."""

    code = "no_candidate"
    exit_code = 7


class ExecutionError(RouterdError):
    """The kernel failed on every backend that policy allows."""

    code = "execution_failed"


class WorkerCrashed(ExecutionError):
    """The worker process ended while it held the task."""

    code = "worker_crashed"


class OutOfMemory(ExecutionError):
    """The device has not enough memory for the task."""

    code = "out_of_memory"


class TaskTimeout(ExecutionError):
    """The task did not end within its time limit."""

    code = "timeout"


class TaskQuarantined(ExecutionError):
    """A task with exactly this content has ended several worker processes, so it is run no more."""

    code = "task_quarantined"


class DeadlineUnmeetable(RouterdError):
    """The task cannot end within its deadline; ``detail['predicted_seconds']`` says how long it would take."""

    code = "deadline_unmeetable"


class Cancelled(RouterdError):
    """The client took the request back before it was answered."""

    code = "cancelled"


class Overloaded(RouterdError):
    """The queues are full; ``detail['retry_after_seconds']`` says when to come back."""

    code = "overloaded"


class ShuttingDown(RouterdError):
    """The daemon drains and takes no new work."""

    code = "shutting_down"
    exit_code = 6


class DaemonUnreachable(RouterdError):
    """No daemon answers on the socket."""

    code = "daemon_unreachable"
    exit_code = 6


def _tree(root: type[RouterdError]) -> Iterator[type[RouterdError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


BY_CODE: dict[str, type[RouterdError]] = {cls.code: cls for cls in _tree(RouterdError)}


def from_wire(code: str, message: str, detail: dict[str, Any]) -> RouterdError:
    """The exception for an error reply; an unknown code gives the base class."""
    error = BY_CODE.get(code, RouterdError)(message)
    error.detail = detail  # no keywords: whoever sent it may have called one "self"
    return error


def suggest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` for the nearest known spelling, or an empty string."""
    possible = [one for one in known if len(name) <= 3 * len(one)]  # no longer name is similar enough: none is compared
    close = difflib.get_close_matches(name, possible, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""
