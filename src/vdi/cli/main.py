"""The `vdi` command, also installed as `kubectl-vdi` so that `kubectl vdi` works.

Mounts the nouns, loads a noun's module only when the noun is typed, and turns every error into one
line and an exit code: 0 ok, 1 findings or failure, 2 usage, 3 could not look. A new noun needs a
line in `NOUNS`.
"""

import importlib
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vdi.cli.errors import FINDINGS, CliError
from vdi.cli.options import PROGRAM, examples
from vdi.cli.terminal import guarded_output, style

NOUNS = {
    "session": "Desktops: create, list, open, explain, suspend and remove them.",
    "template": "The templates of desktops that can be started.",
    "login": "Log in to a gateway: sessions without access to the cluster.",
    "logout": "Log out of a gateway.",
    "whoami": "Show who you are, which target commands use, and why.",
    "usage": "Usage in a month.",
    "home": "The volumes with users' files.",
    "pool": "Desktops that are started in advance.",
    "install": "Install operator and gateway on a cluster with the chart.",
    "upgrade": "Upgrade to a new chart or new values; shows the changes first.",
    "uninstall": "End the desktops and remove the release; homes are kept.",
    "images": "Load image archives onto the nodes of a cluster without a registry.",
    "doctor": "Find problems, their location, and how to fix them.",
    "gpu": "Share each GPU among several desktops by time-slicing, and verify it.",
    "kasm": "Kasm Workspaces on K3s: preflight, values, installation and diagnosis.",
    "cluster": "A real Kubernetes cluster on this machine, for the demo and for tests.",
    "demo": "Start a complete demo with a desktop in the browser, on this machine.",
    "operator": "The controller that turns sessions into desktops.",
    "gateway": "The portal, the login and the access to desktops.",
    "completion": "Print the script that completes commands in bash, zsh or fish.",
}
# Nouns whose command is in the module of another noun.
_MODULES = {
    "session": "session.commands",
    "logout": "login",
    "whoami": "login",
    "usage": "login",
    "upgrade": "install",
}


class Nouns(TyperGroup):
    """The root command. Its help needs only `NOUNS`; a noun's module is imported when a command of
    it runs.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, text in NOUNS.items():
            self.add_command(TyperGroup(name=name, help=text))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The real command in the place of its line in the help."""
        name, stub, rest = super().resolve_command(ctx, args)
        return name, load_noun(name) if name and stub else stub, rest


def load_noun(name: str) -> Any:
    """Import the module of a noun and return its command."""
    noun: typer.Typer = importlib.import_module(f"vdi.cli.{_MODULES.get(name, name)}").app
    noun.rich_markup_mode = None
    # An app with one command and no callback is that command.
    command: Any = typer.main.get_command(noun)
    command = getattr(command, "commands", {}).get(name, command)
    command.help = command.help or NOUNS[name]
    return command


@dataclass(slots=True)
class _Debug:
    """Whether tracebacks are printed: set by the root's options, read after the command has
    failed.
    """

    enabled: bool = False


_debug = _Debug()

app = typer.Typer(
    cls=Nouns,
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        from vdi.version import package_version

        typer.echo(f"vdi {package_version()}")
        raise typer.Exit


@app.callback(
    epilog=examples(
        "session create --template ubuntu-desktop --user alice@example.com --wait", "session ls"
    )
)
def root(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="VDI_DEBUG", help="Show the traceback of an error.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Desktops on Kubernetes: start one, check its state, open it in the browser."""
    _debug.enabled = debug


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned, so that the console script's `sys.exit` ends with
    it.
    """
    with guarded_output():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    _debug.enabled = False
    if "_VDI_COMPLETE" in os.environ:  # a shell asks for the words that could come next
        # Typer adds its completion only to programs with its own options for it, which this one
        # does not have.
        from vdi.cli.completion import prepare

        prepare()
    try:
        typer.main.get_command(app).main(args=argv, prog_name=PROGRAM)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except CliError as failure:
        _show(failure.message, hint="")
        return failure.exit_code
    except Exception as error:
        _show(
            f"unexpected {_describe(error)}",
            hint=(
                f"This is a bug in {PROGRAM}. For the traceback: {PROGRAM} --debug ..., or"
                " VDI_DEBUG=1."
            ),
        )
        return FINDINGS
    return 0


def _describe(error: BaseException) -> str:
    """Type and message of an error; of a group those of each error in it."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_describe(exception) for exception in error.exceptions)
    return f"{type(error).__name__}: {error}"


def _show(message: str, *, hint: str) -> None:
    if _debug.enabled:
        traceback.print_exc()
    typer.echo(style(f"Error: {message}", fg=typer.colors.RED), err=True)
    if hint and not _debug.enabled:
        typer.echo(hint, err=True)
