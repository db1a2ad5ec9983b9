"""Options that many commands share: the cluster and namespace they talk to, durations, and the
examples in their help.

`main` imports this module at every start, so heavy imports stand inside the functions.
"""

import inspect
import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, TypeVar

import typer

from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError

if TYPE_CHECKING:
    from vdi.kube.transport import Client

T = TypeVar("T")

DEFAULT_NAMESPACE = "vdi-sessions"
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        envvar="VDI_KUBECONFIG",
        help="Credentials file; default: $KUBECONFIG, the pod's own account, ~/.kube/config.",
    ),
]
Context = Annotated[
    str | None, typer.Option(envvar="VDI_CONTEXT", help="Context of the kubeconfig to use.")
]
TimeoutFactor = Annotated[
    float,
    typer.Option(
        "--timeout-factor",
        envvar="VDI_TIMEOUT_FACTOR",
        min=1,
        max=100,
        help=(
            "Multiply the time limits, for a slow or emulated machine; above 1, images are loaded"
            " first."
        ),
    ),
]


KubectlPath = Annotated[
    Path | None,
    typer.Option("--kubectl", metavar="PATH", help="kubectl; default: the one in PATH."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check and show what would be done, without changing anything."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def new_app(text: str | None = None) -> typer.Typer:
    """A noun, or a group of its commands; `text` is its help.

    Without Typer's own options for completion: `vdi completion` prints the script.
    """
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


def of_kind(kind: str) -> Callable[[Any], Any]:
    """Callback of an argument for names: `session rm $(session ls -o name)` hands in KIND/NAME, as
    kubectl takes it.
    """

    def without_kind(names: str | list[str]) -> str | list[str]:
        if isinstance(names, list):
            return [name.removeprefix(f"{kind}/") for name in names]
        return names.removeprefix(f"{kind}/")

    return without_kind


def program_name(argv0: str) -> str:
    """The command as it is typed: a kubectl plugin is a program `kubectl-...` that is typed as
    `kubectl ...`.
    """
    if Path(argv0).name.startswith("kubectl-"):
        return "kubectl vdi"
    return "vdi"


PROGRAM = program_name(sys.argv[0])


def examples(*commands: str) -> str:
    """The end of a command's help: what one would type, line by line as written."""
    return "\b\nExamples:\n" + "\n".join(f"  {PROGRAM} {command}" for command in commands)


@dataclass(frozen=True, slots=True)
class KubeConnection:
    """The cluster and the namespace that a command talks to."""

    namespace: str = DEFAULT_NAMESPACE
    kubeconfig: Path | None = None
    context: str | None = None

    @property
    def cluster_words(self) -> list[str]:
        """The options that choose the cluster, for kubectl and for our own commands."""
        if self.kubeconfig:
            options = ["--kubeconfig", str(self.kubeconfig)]
        else:
            options = []
        return [*options, *(["--context", self.context] if self.context else [])]

    @property
    def flags(self) -> str:
        """Options for a suggested command that choose the same namespace and cluster."""
        if self.namespace != DEFAULT_NAMESPACE:
            options = ["-n", self.namespace]
        else:
            options = []
        return "".join(f" {shlex.quote(word)}" for word in [*options, *self.cluster_words])

    def kubectl(self, given: Path | None) -> list[str]:
        """The first words of a kubectl command on this cluster. Raises CliError without kubectl."""
        import shutil

        program = shutil.which(given or "kubectl")
        if program is None:
            missing = "kubectl is not in PATH"
            if given:
                missing = f"--kubectl {given}: is no program"
            raise CliError(
                f"{missing}; allowed: --kubectl PATH", USAGE if given else COULD_NOT_LOOK
            )
        return [program, *self.cluster_words]

    def run(self, work: Callable[["Client"], Awaitable[T]]) -> T:
        """Open a client, do the work, close it. Errors of the API come out as `CliError`, in
        words.
        """
        import asyncio

        from vdi.cli.api_errors import in_words
        from vdi.kube.config import load_config
        from vdi.kube.errors import KubeError
        from vdi.kube.transport import Client
        from vdi.version import user_agent

        async def session() -> T:
            async with Client(
                config, field_manager="vdi-cli", user_agent=user_agent("vdi-cli")
            ) as client:
                return await work(client)

        server = None
        try:
            config = load_config(self.kubeconfig, self.context)
            server = config.server
            return asyncio.run(session())
        except KubeError as error:
            raise in_words(
                error,
                namespace=self.namespace,
                credentials=self.credentials_in_words,
                server=server,
            ) from error

    @property
    def credentials_in_words(self) -> str:
        """The source of the credentials, for error messages."""
        if self.kubeconfig:
            return f"kubeconfig {self.kubeconfig}"
        if path := os.environ.get("KUBECONFIG"):
            return f"kubeconfig {path} (from $KUBECONFIG)"
        return "kubeconfig ~/.kube/config or the pod's own account"


def seconds_of(option: str, text: str) -> float:
    """The seconds of a duration that was typed as this option."""
    from vdi.cluster.units import parse_duration

    try:
        return parse_duration(text).total_seconds()
    except ValueError as error:
        raise CliError(f"{option}: {error}", USAGE) from error


def read_yaml(file: Path) -> dict[str, Any]:
    """One YAML document that is a mapping; an empty file is an empty one. `-` is stdin."""
    import yaml

    try:
        if str(file) == "-":
            text = typer.get_text_stream("stdin").read()
        else:
            text = file.read_text()
        document = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file}: {error}", COULD_NOT_LOOK) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise CliError(f"{file} is not a single YAML document{where}", USAGE) from error
    if document is None:
        return {}
    if not isinstance(document, dict) or any(not isinstance(key, str) for key in document):
        raise CliError(f"{file} is not a mapping; allowed: keys with values", USAGE)
    return document


# Annotation and default of options, by the name of their parameter.
Options = Mapping[str, tuple[Any, Any]]

CLUSTER_OPTIONS: Options = {"kubeconfig": (Kubeconfig, None), "context": (Context, None)}
CONNECTION_OPTIONS: Options = {
    "namespace": (
        Annotated[
            str,
            typer.Option(
                "--namespace", "-n", envvar="VDI_NAMESPACE", help="Namespace of the sessions."
            ),
        ],
        DEFAULT_NAMESPACE,
    ),
    **CLUSTER_OPTIONS,
}


def replace_parameter(
    options: Options, make: Callable[..., T]
) -> Callable[[Callable[Concatenate[T, ...], None]], Callable[..., None]]:
    """A decorator that replaces a command's first parameter by options; `make` gets their values by
    name.

    Typer reads options from the signature of a function. So what several commands have in common
    stands here once, and a command receives what `make` builds of it.
    """

    def decorate(command: Callable[Concatenate[T, ...], None]) -> Callable[..., None]:
        @wraps(command)
        def with_options(**given: Any) -> None:
            own = {name: given.pop(name) for name in options}
            command(make(**own), **given)

        with_options.__signature__ = signature_with(options, command)  # type: ignore[attr-defined]
        return with_options

    return decorate


def signature_with(options: Options, command: Callable[..., None]) -> inspect.Signature:
    """The signature that Typer sees: these options replace the first parameter of the command."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    more = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
        )
        for name, (annotation, default) in options.items()
    ]
    return inspect.Signature(
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + more
    )


with_connection = replace_parameter(CONNECTION_OPTIONS, KubeConnection)
# For commands about the whole cluster.
with_cluster = replace_parameter(CLUSTER_OPTIONS, KubeConnection)
