"""The long form: every target for its share of the time, guided by coverage where atheris is installed.

``python -m tests.fuzz --seconds 600`` tries all targets; ``--target frames`` one of them. Inputs that do harm are written to
``.fuzz/<target>/``, and ``python -m tests.fuzz --replay FILE`` runs one again. The directory above the file names the target, or
the part of the corpus.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

# routerd is imported where it is instrumented, and not here.
TARGETS = ("frames", "replies", "jobs", "outcomes", "tasks", "policies", "server", "daemon")
_UNGUIDED = (
    "outcomes",
    "daemon",
)  # what they reach is compiled, or in another process: there is nothing to be guided by
_BATCH = 200  # inputs that hypothesis tries before the clock is looked at
_LONGEST_BYTES = 256 << 10
_PATIENCE_SECONDS = 120.0  # beyond its share: a target has to open, and to shrink what it has found


def main() -> int:
    """Fuzz, or replay; 1 if something did harm."""
    arguments = _parser().parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # NumPy says so of sums that overflow, as they must here
    if arguments.replay:
        return _replay(arguments.replay)
    if arguments.alone:
        (name,) = arguments.target
        engine = _hypothesis if name in _UNGUIDED or find_spec("atheris") is None else _atheris
        engine(name, arguments.seconds, arguments.into)
        return 0
    names = arguments.target or list(TARGETS)
    return max(_spawn(name, arguments.seconds / len(names), arguments.into) for name in names)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="time for all targets together (120)")
    parser.add_argument("--target", action="append", choices=TARGETS, help="fuzz only this; may be given again")
    parser.add_argument("--into", type=Path, default=Path(".fuzz"), help="directory for inputs that do harm (.fuzz)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one such input again")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    return parser


def _spawn(name: str, seconds: float, into: Path) -> int:
    """One target in a process of its own, which may end as it likes; tells what was found."""
    found = into / name
    found.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    print(f"{name}: {seconds:.0f} s", flush=True)
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--alone",
        "--target",
        name,
        "--seconds",
        str(seconds),
        "--into",
        str(found),
    ]
    with tempfile.TemporaryDirectory(prefix="rd-") as scratch, (found / "log").open("w") as log:
        environment = {**os.environ, "TMPDIR": scratch}
        try:
            code = subprocess.run(
                command, env=environment, stdout=log, stderr=log, timeout=seconds + _PATIENCE_SECONDS, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = 1
    harmful = sorted(set(found.iterdir()) - before - {found / "log"})
    for path in harmful:
        print(f"  {path} does harm; again with: python -m tests.fuzz --replay {path}")
    if code or harmful:
        print(f"  {name} ended with status {code}; see {found / 'log'}")
    return int(bool(code or harmful))


def _atheris(name: str, seconds: float, into: Path) -> None:
    """Inputs mutated towards new lines of routerd; the first that does harm ends the process."""
    import atheris

    with atheris.instrument_imports(include=["routerd"]):
        from tests.fuzz.targets import CORPUS, targets

        target = targets()[name]
    grown = tempfile.mkdtemp(prefix="corpus-")
    options = [
        f"-max_total_time={max(int(seconds), 1)}",
        f"-artifact_prefix={into}/",
        f"-max_len={_LONGEST_BYTES}",
        "-timeout=30",
    ]
    with target.open() as check:
        atheris.Setup([sys.argv[0], *options, grown, str(CORPUS / target.corpus)], check)
        atheris.Fuzz()


def _hypothesis(name: str, seconds: float, into: Path) -> None:
    """Inputs of the target's own strategy, in batches until the time is up."""
    from hypothesis import HealthCheck, given, settings

    from tests.fuzz.targets import targets

    target = targets()[name]
    tried = 0
    with target.open() as check:
        deadline = time.monotonic() + seconds

        @settings(max_examples=_BATCH, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(target.inputs)
        def examine(data: bytes) -> None:
            nonlocal tried
            tried += 1
            _guarded(check, data, into)

        while time.monotonic() < deadline:
            examine()
    print(f"{tried} inputs")


def _guarded(check: Callable[[bytes], None], data: bytes, into: Path) -> None:
    """Keep an input that does harm; hypothesis makes it smaller, so the last one kept is the smallest."""
    path = into / "smallest"
    try:
        check(data)
    except Exception:
        path.write_bytes(data)
        raise


def _replay(path: Path) -> int:
    from tests.fuzz.targets import targets

    kind = path.absolute().parent.name
    for target in targets().values():
        if kind in (target.name, target.corpus):
            with target.open() as check:
                check(path.read_bytes())
            print(f"{path} does no harm to {target.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
