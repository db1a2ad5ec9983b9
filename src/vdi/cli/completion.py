"""`vdi completion`: the script with which a shell completes `vdi`."""

from enum import StrEnum
from typing import Annotated

import typer

from vdi.cli.options import examples, new_app

app = new_app()
# With it in its environment, `vdi` prints what could come next, and does nothing else.
VARIABLE = "_VDI_COMPLETE"


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command(
    epilog=examples(
        "completion bash > ~/.local/share/bash-completion/completions/vdi",
        "completion zsh > ~/.zfunc/_vdi",
        "completion fish > ~/.config/fish/completions/vdi.fish",
    )
)
def completion(shell: Annotated[Shell, typer.Argument(help="Name of the shell.")]) -> None:
    """Print the script that completes commands and options of vdi in SHELL."""
    from typer._completion_shared import get_completion_script

    typer.echo(get_completion_script(prog_name="vdi", complete_var=VARIABLE, shell=shell))


def prepare() -> None:
    """Make the answers to shells available, which Typer does by itself only with its own options
    for completion.
    """
    from typer._completion_classes import completion_init

    completion_init()
