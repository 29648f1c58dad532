"""A decision and a trace as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from routerd.cli import output
from routerd.cli.formats import duration, gain, number, quantity, when

if TYPE_CHECKING:
    from rich.console import RenderableType

_MARK_STYLES = {"✓": "green", "✗": "dim", "·": "yellow"}


def decision_view(decision: Mapping[str, Any]) -> list[RenderableType]:
    """Where, how soon, how sure and why; then every other candidate and every rejected backend."""
    seconds = decision["predicted_seconds"]
    headline = output.styled(decision["backend"], "bold green", f" on {decision['primary_hardware']}")
    parts: list[RenderableType] = [
        output.fields(
            [
                ("workload", f"{decision['workload']}, work {quantity(decision['work'])}"),
                ("run on", headline),
                ("predicted", when(seconds)),
                ("gain", f"{gain(decision['estimated_gain'])} against cpu.numpy"),
                ("confidence", f"{decision['confidence']:.0%}"),
                ("in time", "" if decision["in_time"] is None else f"{decision['in_time']:.1%} sure"),
                ("why", decision["reasoning"]),
                ("rule", decision["rule"]),
                ("policy", f"{decision['policy_digest'][:12]}, generation {decision['generation']}"),
                ("decision", decision["decision_id"]),
            ]
        )
    ]
    if decision["fallbacks"]:
        listed = output.table(
            ["candidate", "device", "predicted", "slower", "queue", "transfer", "service", "spread", "error"],
            right=("slower",),
        )
        for one in decision["fallbacks"]:
            listed.add_row(
                one["backend"],
                one["device_kind"],
                when(one["predicted_seconds"]),
                gain(one["predicted_seconds"] / seconds),
                when(one["queue_seconds"]),
                when(one["transfer_seconds"]),
                when(one["service_seconds"]),
                f"±{one['log_sigma']:.0%}",
                f"{one['error']:.1e}",
            )
        parts += ["", listed]
    if decision["rejected"]:
        rejected = output.table(["rejected", "reason"], wrap=("reason",))
        for one in decision["rejected"]:
            rejected.add_row(one["backend"], one["reason"])
        parts += ["", rejected]
    return parts


def run_view(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """How an execution went: where it ran, how long each stage took, and why it was moved if it was."""
    timing, predicted = result["timing"], result["decision"]["predicted_seconds"]
    if timing is None:
        return []
    stages = ", ".join(f"{name} {when(timing[f'{name}_seconds'])}" for name in ("queue", "transfer", "kernel"))
    reason = result["fallback_reason"]
    return [
        ("time", f"{duration(timing['total_seconds'])} in the daemon ({stages}); predicted {duration(predicted)}"),
        ("moved", output.styled(reason, "yellow") if reason else ""),
    ]


def trace_view(trace: Mapping[str, Any]) -> list[RenderableType]:
    """Every constraint and rule of the policy with the facts that decided it."""
    import msgspec
    from rich.text import Text

    from routerd.policy import Trace, render_trace

    lines = Text()
    for line in render_trace(msgspec.convert(trace, Trace)):
        lines.append(line + "\n", _MARK_STYLES.get(line.lstrip()[:1], "bold"))
    lines.rstrip()
    return [lines]


def facts_view(facts: Mapping[str, Any]) -> RenderableType:
    """What was known about the task, the client and the machine."""
    return output.fields(
        [
            (name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else number(value))
            for name, value in sorted(facts.items())
        ]
    )
