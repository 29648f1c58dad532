"""The command line as a whole: commands, errors as exit codes, and quiet ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from routerd import __version__
from routerd.cli import bench, calibrate, catalogue, decisions, machine, output, policy, tasks
from routerd.cli.options import Json, Socket, defaults_for
from routerd.errors import RouterdError

_USAGE = 2
_INTERRUPTED = 130

#: The base of every usage error. typer exports no name for it (some versions bring their own click).
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="routerctl",
    help="Ask and steer routerd, the daemon that decides where numeric work runs.",
    epilog="Exit codes: 0 ok, 1 internal, 2 usage, 3 invalid policy or configuration, 4 tests failed, "
    "5 differences found, 6 daemon unreachable, 7 denied.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.write(f"routerctl {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    as_json: Json = False,
    socket: Socket = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    given = {"as_json": as_json, "socket": socket}
    context.default_map = defaults_for(context.command, {name: value for name, value in given.items() if value})


app.command()(machine.status)
app.command()(machine.backends)
app.command()(catalogue.workloads)
app.command()(tasks.decide)
app.command()(tasks.run)
app.command()(calibrate.calibrate)
app.command()(machine.flags)
app.add_typer(bench.app, name="bench")
app.add_typer(decisions.app, name="decisions")
app.add_typer(policy.app, name="policy")


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. Whatever goes wrong is one line on standard error, never a traceback."""
    as_json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal that cannot show × still gets the answer
    try:
        code = app(list(arguments), prog_name="routerctl", standalone_mode=False)
        sys.stdout.flush()
    except RouterdError as error:
        output.error(error.code, error.message, error.detail, as_json=as_json)
        return error.exit_code
    except _ClickError as error:
        return _usage_error(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except OSError as error:
        output.drop()
        output.error("internal", f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", {})
        return 1
    except Exception as error:
        if os.environ.get("ROUTERCTL_TRACEBACK"):
            raise
        message = f"{type(error).__name__}: {error}; set ROUTERCTL_TRACEBACK=1 to see where"
        output.error("internal", message, {}, as_json=as_json)
        return 1
    return code if isinstance(code, int) else 0


def _usage_error(error: Exception, *, as_json: bool) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error, file=sys.stderr)
        return _USAGE
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    output.error("usage", message + hint, {}, as_json=as_json)
    return _USAGE
