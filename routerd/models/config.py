"""``config.json``: what a model file does not say about itself."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from routerd.errors import InvalidModel
from routerd.workloads.networks import Layer

BATCH = "batch"

Length: TypeAlias = Literal["batch"] | Annotated[int, Meta(ge=1, le=2**31)]
Dtype: TypeAlias = Literal["float64", "float32", "int64", "int32", "uint8", "bool"]


class ArrayConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output. ``shape`` has ``"batch"`` first where the model takes several samples at once."""

    name: str
    shape: tuple[Length, ...] | None = None
    dtype: Dtype | None = None
    unit: Annotated[str, Meta(max_length=80)] = ""
    doc: Annotated[str, Meta(max_length=400)] = ""
    minimum: float | None = None
    maximum: float | None = None


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All of it is optional; ``layers`` belongs to safetensors, ``inputs`` must be there for TorchScript."""

    summary: Annotated[str, Meta(max_length=400)] = ""
    inputs: tuple[ArrayConfig, ...] = ()
    outputs: tuple[ArrayConfig, ...] = ()
    layers: tuple[Layer, ...] = ()
    tolerance: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    max_batch: Annotated[int, Meta(ge=1, le=2**31)] | None = None


def parse_config(content: bytes) -> Config:
    """The configuration. Raises ``InvalidModel`` that names the place of what is wrong."""
    if not content:
        return Config()
    try:
        config = msgspec.json.decode(content, type=Config)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidModel(f"config.json: {error}") from error
    for array in (*config.inputs, *config.outputs):
        if array.shape and BATCH in array.shape[1:]:
            raise InvalidModel(f'config.json: {array.name} has "batch" at another place than the first')
    return config
