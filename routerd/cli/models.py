"""Users' models in the answer about ``ml.model``: which version serves, which wait, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from routerd.cli import output

if TYPE_CHECKING:
    from rich.console import RenderableType


def models_view(workload: Mapping[str, Any]) -> list[RenderableType]:
    """What follows the description of ``ml.model``; nothing for every other workload."""
    if "models" not in workload:
        return []
    title = output.styled("models", "bold")
    if not workload["models"]:
        return ["", title, "none yet; docs/models.md says where they go"]
    listed = output.table(
        ["model", "version", "state", "file", "takes → gives", "runs on", "reason"], wrap=("takes → gives", "reason")
    )
    for one in workload["models"]:
        if one["state"] == "refused":
            listed.add_row(one["path"], "", output.state("refused"), "", "", "", one["reason"])
            continue
        able = ", ".join(name for name, reason in one["backends"].items() if not reason)
        listed.add_row(
            output.styled(one["model"], "bold"),
            str(one["version"]),
            output.state(one["state"]),
            one["file"],
            _signature(one),
            able if one["state"] in ("serving", "standby") else "",
            one["reason"],
        )
    return ["", title, listed]


def declared_name(workload: str, params: Mapping[str, Any]) -> str:
    """The name under which the daemon describes what a task runs: ``ml.model/credit@3`` rather than ``ml.model``."""
    from routerd.workloads.ml import DEMO, MODEL

    model, version = params.get("model", DEMO), params.get("version")
    if workload != MODEL or model == DEMO:
        return workload
    return f"{MODEL}/{model}" + ("" if version is None else f"@{version}")


def _signature(model: Mapping[str, Any]) -> str:
    if "inputs" not in model:
        return ""
    return " → ".join(", ".join(_array(array) for array in model[side]) for side in ("inputs", "outputs"))


def _array(array: Mapping[str, Any]) -> str:
    return f"{array['name']} {'×'.join(map(str, array['shape'])) or 'number'}"
