"""safetensors: a header and raw numbers, nothing that could run. The layers are in ``config.json``."""

from __future__ import annotations

from typing import Any

import numpy as np

from routerd.errors import InvalidModel, Unavailable
from routerd.models.config import BATCH, Config
from routerd.models.description import ArrayDescription
from routerd.models.loading import Opened, with_config
from routerd.workloads.networks import Network, network_kernel

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def open_network(content: bytes, config: Config) -> Opened:
    """The network that the layers of ``config.json`` make of the tensors. Raises ``InvalidModel``."""
    if not config.layers:
        raise InvalidModel(
            "safetensors holds numbers alone; say in config.json what to do with them: "
            '{"layers": [{"type": "linear", "name": "0"}, {"type": "relu"}]}'
        )
    network = Network(config.layers, read_tensors(content))
    (given,) = with_config((ArrayDescription("x", (BATCH, network.inputs), "float64"),), config.inputs, "inputs")
    return Opened((given,), network_kernel(lambda: network, given.name, "y"), network.flops)


def read_tensors(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor in float64, which holds each of the accepted types exactly."""
    try:
        from safetensors import SafetensorError, deserialize
    except ImportError as error:
        raise Unavailable("safetensors is not installed; pip install 'routerd[models]'") from error
    try:
        found = deserialize(content)  # type: ignore[no-untyped-call]  # its stub leaves the result open
    except SafetensorError as error:
        raise InvalidModel(f"it is no valid safetensors file: {error}") from error
    tensors = {name: _tensor(name, entry) for name, entry in found}
    broken = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if broken:
        raise InvalidModel(f"NaN or infinity in {', '.join(sorted(broken))}")
    return tensors


def _tensor(name: str, entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    data, dtype = entry["data"], entry["dtype"]
    if dtype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    elif dtype in _DTYPES:
        values = np.frombuffer(data, dtype=_DTYPES[dtype])
    else:
        raise InvalidModel(f"the tensor {name} is {dtype}; accepted are {', '.join(_DTYPES)} and BF16")
    return values.reshape(entry["shape"]).astype(np.float64)
