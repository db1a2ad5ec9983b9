"""`vdi kasm`: Kasm Workspaces on K3s, from an empty cluster to a diagnosed one."""

import typer

from vdi.cli.kasm.checklists import app as checklist_commands
from vdi.cli.kasm.diagnose import app as diagnose_command
from vdi.cli.kasm.values import app as values_commands

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Kasm Workspaces on K3s: check the cluster, create values, install, validate, diagnose.",
)
app.add_typer(values_commands, name="values")
app.add_typer(checklist_commands)
app.add_typer(diagnose_command)
