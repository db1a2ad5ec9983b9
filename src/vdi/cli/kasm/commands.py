"""`vdi kasm`: Kasm Workspaces on K3s, from an empty cluster to one that is looked after."""

import typer

from vdi.cli.kasm.diagnose import app as diagnose_command
from vdi.cli.kasm.install import app as install_commands
from vdi.cli.kasm.install_data import app as data_commands
from vdi.cli.kasm.preflight import app as preflight_command
from vdi.cli.kasm.validate import app as validate_command
from vdi.cli.kasm.values import app as values_commands

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Kasm Workspaces on K3s: check the cluster, create values, install, validate, diagnose.",
)
app.add_typer(preflight_command)
app.add_typer(values_commands, name="values")
app.add_typer(install_commands)
app.add_typer(validate_command)
app.add_typer(diagnose_command)
app.add_typer(data_commands)
