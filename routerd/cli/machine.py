"""``status``, ``backends`` and ``flags``: what this machine has and how the daemon does."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from routerd.cli import output
from routerd.cli.link import Link
from routerd.cli.options import Json, Socket

if TYPE_CHECKING:
    from rich.console import RenderableType

_PROVED = ("proved", "calibrated")


def status(as_json: Json = False, socket: Socket = None) -> None:
    """Show whether the daemon serves, and with what."""
    with Link(socket) as link:
        report = link.call("status")
    if as_json:
        output.write_json(report)
    else:
        output.show(*_status(report))


def _status(report: Mapping[str, Any]) -> list[RenderableType]:
    from routerd.cli.formats import age, byte_size, moment, when

    policy, traffic, decisions, table = report["policy"], report["traffic"], report["decisions"], report["table"]
    pending = report["calibration_pending"]
    about = f"  routerd {report['version']}, pid {report['pid']}, up {age(report['uptime_seconds'])}"
    word, style = ("serving", "bold green") if report["ready"] else ("starting", "bold yellow")
    overview = output.fields(
        [
            ("daemon", output.styled(word, style, about)),
            ("socket", report["socket"]),
            ("state", f"{report['state_dir']}  (memory {byte_size(report['memory_bytes'])})"),
            (
                "policy",
                f"{policy['name']}  {policy['digest'][:12]}, generation {policy['generation']}, "
                f"active since {moment(policy['activated_at'])}",
            ),
            ("", output.styled("applied by hand: a restart returns to the configured files", "yellow"))
            if policy["until_restart"]
            else ("", ""),
            ("", output.styled(f"last change refused: {policy['failure']}", "bold red") if policy["failure"] else ""),
            (
                "traffic",
                f"{traffic['clients']} clients, {traffic['in_flight']} in flight, {traffic['requests']} requests, "
                f"{traffic['errors']} errors",
            ),
            ("decisions", f"{decisions['recorded']} recorded, {decisions['dropped']} dropped"),
            (
                "",
                output.styled(f"{decisions['write_errors']} could not be written; see the log", "red")
                if decisions["write_errors"]
                else "",
            ),
            (
                "table",
                f"{table['entries']} entries; {table['decisions']} decisions taken from it, "
                f"{table['in_process']} tasks run by clients",
            ),
            ("calibration", f"{pending} pairs pending" if pending else "complete"),
        ]
    )
    backends = output.table(["backend", "state"])
    for name, word in report["backends"].items():
        backends.add_row(name, output.state(word))
    workers = output.table(
        ["worker", "state", "pid", "memory", "waiting", "queue", "restarts"], right=("memory", "waiting", "restarts")
    )
    for worker in report["workers"]:
        workers.add_row(
            worker["name"],
            output.state(worker["state"]),
            str(worker["pid"] or ""),
            byte_size(worker["memory_bytes"]),
            str(worker["waiting"]),
            when(worker["queue_seconds"]),
            str(worker["restarts"]),
        )
    failed = report["plugins_failed"]
    parts: list[RenderableType] = [overview, "", backends, "", workers]
    if failed:
        parts += ["", output.styled(f"plugins failed: {', '.join(failed)}; routerctl backends says why", "red")]
    return parts


def backends(as_json: Json = False, socket: Socket = None) -> None:
    """List the backends and plugins, and why one does not work."""
    with Link(socket) as link:
        report = link.call("backends")
    if as_json:
        output.write_json(report)
    else:
        output.show(*_backends(report))


def _backends(report: Mapping[str, Any]) -> list[RenderableType]:
    listed = output.table(
        ["backend", "device", "hardware", "precision", "state", "proved", "reason"], right=("proved",), wrap=("reason",)
    )
    quarantined = output.table(["backend", "workload", "reason"], wrap=("reason",))
    broken = output.table(["backend", "workload", "reason"], wrap=("reason",))
    for backend in report["backends"]:
        pairs = [pair for pair in backend["workloads"] if pair["state"] != "unsupported"]
        proved = sum(pair["state"] in _PROVED for pair in pairs)
        device = backend["device"]
        listed.add_row(
            backend["name"],
            backend["device_kind"],
            "" if device is None else device["name"],
            backend["precision"],
            output.state(backend["state"]),
            f"{proved}/{len(pairs)}",
            backend["reason"],
        )
        for pair in pairs:
            if pair["state"] == "quarantined":
                quarantined.add_row(backend["name"], pair["workload"], pair["reason"])
            if pair["state"] == "breaker_open":
                broken.add_row(backend["name"], pair["workload"], pair["reason"])
    parts: list[RenderableType] = [listed]
    if quarantined.row_count:
        parts += ["", output.styled("quarantined: gave a wrong answer here, and get no work", "bold red"), quarantined]
    if broken.row_count:
        parts += ["", output.styled("failed repeatedly: get no work until a probe succeeds", "bold red"), broken]
    absent = output.table(["plugin", "version", "state", "reason"], wrap=("reason",))
    for plugin in report["plugins"]:
        if plugin["state"] != "loaded":
            absent.add_row(plugin["name"], plugin["version"], output.state(plugin["state"]), plugin["reason"])
    if absent.row_count:
        parts += ["", output.styled("plugins not loaded", "bold"), absent]
    return parts


def flags(as_json: Json = False, socket: Socket = None) -> None:
    """List the environment flags, what each does, or why nothing."""
    with Link(socket) as link:
        report = link.call("flags")
    if as_json:
        output.write_json(report)
    else:
        output.show(*_flags(report))


def _flags(report: list[dict[str, Any]]) -> list[RenderableType]:
    from routerd.cli.formats import number

    parts: list[RenderableType] = []
    for group, members in groupby(report, key=lambda flag: flag["group"]):
        listed = output.table(["flag", "value", "source", "state", "effect"], wrap=("effect",))
        for flag in members:
            effect = flag["effect"] if not flag["reason"] else f"{flag['effect']} Inert: {flag['reason']}"
            value = number(flag["value"])
            listed.add_row(
                flag["name"],
                value if flag["source"] == "default" else output.styled(value, "bold cyan"),
                flag["source"],
                output.state(flag["state"]),
                effect,
            )
        parts += ["", output.styled(group, "bold"), listed]
    return parts[1:]
