"""``make demo``: real prices, one private daemon, one table of where each job ran and why, and one policy change."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from engines.calibration import calibrate
from engines.checks.require import WrongResult
from engines.findings import Findings
from engines.jobs import build_jobs
from engines.jobs.job import Job, Outcome, run_job
from engines.policy_change import NothingToBar, Unchanged, show_policy_change
from engines.prices import Stock, read_stocks
from engines.private_daemon import DaemonTrouble, PrivateDaemon, alone_in
from engines.table import RoutingTable, rows_of
from routerd import connect
from routerd.client import Router
from routerd.errors import RouterdError
from routerd.routing.reasoning import duration

_DIRECTORY = Path(__file__).resolve().parents[1] / ".demo"
_PIPED_COLUMNS = 150
_FAILURES = (RouterdError, DaemonTrouble, NothingToBar, Unchanged, WrongResult, OSError, ImportError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m engines.demo", description=__doc__)
    parser.add_argument(
        "--directory",
        type=Path,
        default=_DIRECTORY,
        help="where state and log are kept (default: .demo in the repository)",
    )
    parser.add_argument(
        "--repeats", type=_positive, default=3, help="runs of each task; the median is shown (default: 3)"
    )
    parser.add_argument("--picture", type=Path, help="also draw what is printed, as an SVG file")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    console = _console(record=chosen.picture is not None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    daemon = PrivateDaemon(chosen.directory.absolute())
    try:
        with alone_in(daemon.directory):
            _tell(daemon, chosen.repeats, console)
    except KeyboardInterrupt:
        print("demo interrupted; its daemon is stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except _FAILURES as error:
        print(f"demo failed: {error}", file=sys.stderr)
        if daemon.log.exists():
            print(f"the daemon's log: {daemon.log}", file=sys.stderr)
        return 1
    if chosen.picture is not None:
        console.save_svg(str(chosen.picture), title="make demo")
    console.print(f"\nDone in {time.monotonic() - started:.1f} s. The daemon's log: {_near(daemon.log)}")
    return 0


def _tell(daemon: PrivateDaemon, repeats: int, console: Console) -> None:
    stocks = read_stocks()
    jobs = build_jobs(stocks)
    days = [date for stock in stocks for date in stock.dates]
    console.print(
        f"{len(days):,} daily prices of {', '.join(stock.ticker for stock in stocks)}, {min(days)} to {max(days)} "
        "(bokeh-sampledata, public domain)"
    )
    with daemon.running():
        with connect(daemon.socket, name="demo") as router:
            _prepare(daemon, router, jobs, console)
            outcomes = {name: run_job(router, job, repeats) for name, job in jobs.items()}
            _show_routing(router, outcomes, repeats, console)
            _show_results(stocks, outcomes, console)
            console.print("A policy change", style="bold")
            show_policy_change(router, daemon.policies, jobs["loose_product"], console)
        stopping = time.monotonic()
    console.print(
        f"stop     the daemon ended with exit code 0 after {duration(time.monotonic() - stopping)}; no process is left"
    )


def _prepare(daemon: PrivateDaemon, router: Router, jobs: Mapping[str, Job], console: Console) -> None:
    """Wait for the backends, and let them prove and time themselves where an earlier run has not."""
    status = router.call("status")
    console.print(f"routerd {status['version']}, process {status['pid']}, on {_near(daemon.socket)}")
    workloads = sorted({job.workload for job in jobs.values()})
    began = time.monotonic()
    done = asyncio.run(calibrate(daemon.socket, workloads, console))
    took = duration(time.monotonic() - began)
    if done:
        console.print(
            f"{done} pairs of backend and workload proved and timed in {took}; kept in {_near(daemon.state)} for next time"
        )
    else:
        console.print(f"backends ready in {took}; proofs and timings of an earlier run are in {_near(daemon.state)}")
    for backend in router.call("backends")["backends"]:
        device = backend["device"]
        found = f"{backend['precision']} on {device['name']}" if device else backend["reason"]
        console.print(f"  {backend['name']:16} {backend['state']:12} {found}")


def _show_routing(router: Router, outcomes: dict[str, Outcome], repeats: int, console: Console) -> None:
    units = {workload["name"]: workload["work_unit"] for workload in router.call("workloads")}
    rows = [row for outcome in outcomes.values() for row in rows_of(outcome, units[outcome.job.workload])]
    console.print()
    console.print(RoutingTable(rows))
    measured = "one run" if repeats == 1 else f"of {repeats} runs of each task the one with the median time"
    console.print(
        f"measured: time in the daemon from request to reply (queue, transfer, kernel), {measured}. "
        "gain: predicted time on cpu.numpy ÷ predicted time on the choice. "
        "A row of several tasks shows the sums of their times, the lowest confidence, and the reason of the longest.\n",
        style="dim",
    )


def _show_results(stocks: Sequence[Stock], outcomes: dict[str, Outcome], console: Console) -> None:
    findings = Findings(stocks, outcomes)
    for table in (findings.options(), findings.histories(), findings.risk()):
        console.print(table)
        console.print()
    for remark in findings.remarks():
        console.print(remark)
    console.print()


def _console(*, record: bool) -> Console:
    """Standard output; where that is no terminal, plain text of a fixed width."""
    if sys.stdout.isatty():
        return Console(highlight=False, markup=False, record=record)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    return Console(highlight=False, markup=False, width=_PIPED_COLUMNS, record=record)


def _near(path: Path) -> str:
    """The path as one types it here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _leave(number: int, _frame: FrameType | None) -> None:
    """End as on Ctrl-C, so that the daemon is stopped."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
