"""Options that many commands share: the cluster and namespace they talk to, durations, and the examples in their help.

`main` imports this module at every start, so heavy imports stand inside the functions.
"""

import inspect
import os
import shlex
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer

from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError

if TYPE_CHECKING:
    from vdi.kube.transport import Client

T = TypeVar("T")
P = ParamSpec("P")

DEFAULT_NAMESPACE = "vdi-sessions"
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        envvar="VDI_KUBECONFIG",
        help="Credentials file; default: $KUBECONFIG, the pod's own account, ~/.kube/config.",
    ),
]
Context = Annotated[str | None, typer.Option(envvar="VDI_CONTEXT", help="Context of the kubeconfig to use.")]
TimeoutFactor = Annotated[
    float,
    typer.Option(
        "--timeout-factor",
        envvar="VDI_TIMEOUT_FACTOR",
        min=1,
        max=100,
        help="Multiply the time limits, for a slow or emulated machine; above 1, images are loaded first.",
    ),
]


def of_kind(kind: str) -> Callable[[Any], Any]:
    """Callback of an argument for names: `session rm $(session ls -o name)` hands in KIND/NAME, as kubectl takes it."""

    def without_kind(names: str | list[str]) -> str | list[str]:
        if isinstance(names, list):
            return [name.removeprefix(f"{kind}/") for name in names]
        return names.removeprefix(f"{kind}/")

    return without_kind


def program_name(argv0: str) -> str:
    """How the person calls us: a kubectl plugin is a program named `kubectl-...` that is typed as `kubectl ...`."""

    return "kubectl vdi" if Path(argv0).name.startswith("kubectl-") else "vdi"


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
    def flags(self) -> str:
        """What to add to a suggested command so that it uses the same cluster."""
        words = ["-n", self.namespace] if self.namespace != DEFAULT_NAMESPACE else []
        words += ["--kubeconfig", str(self.kubeconfig)] if self.kubeconfig else []
        words += ["--context", self.context] if self.context else []
        return "".join(f" {shlex.quote(word)}" for word in words)

    def run(self, work: Callable[["Client"], Awaitable[T]]) -> T:
        """Open a client, do the work, close it. Errors of the API come out as `CliError`, in words."""
        import asyncio

        from vdi.cli.api_errors import in_words
        from vdi.kube.config import load_config
        from vdi.kube.errors import KubeError
        from vdi.kube.transport import Client
        from vdi.version import user_agent

        async def session() -> T:
            async with Client(config, field_manager="vdi-cli", user_agent=user_agent("vdi-cli")) as client:
                return await work(client)

        server = None
        try:
            config = load_config(self.kubeconfig, self.context)
            server = config.server
            return asyncio.run(session())
        except KubeError as error:
            raise in_words(
                error, namespace=self.namespace, credentials=self.credentials_in_words, server=server
            ) from error

    @property
    def credentials_in_words(self) -> str:
        """Where the credentials come from, for error messages."""
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


# Annotation and default of options, by the name of their parameter.
Options = Mapping[str, tuple[Any, Any]]

CONNECTION_OPTIONS: Options = {
    "namespace": (
        Annotated[str, typer.Option("--namespace", "-n", envvar="VDI_NAMESPACE", help="Namespace of the sessions.")],
        DEFAULT_NAMESPACE,
    ),
    "kubeconfig": (Kubeconfig, None),
    "context": (Context, None),
}


def with_connection(command: Callable[Concatenate[KubeConnection, P], None]) -> Callable[..., None]:
    """Replace a command's first parameter, its connection, by the options that choose it."""

    @wraps(command)
    def with_target(*args: Any, namespace: str, kubeconfig: Path | None, context: str | None, **rest: Any) -> None:
        command(KubeConnection(namespace, kubeconfig, context), *args, **rest)

    with_target.__signature__ = signature_with(CONNECTION_OPTIONS, command)  # type: ignore[attr-defined]
    return with_target


def signature_with(options: Options, command: Callable[..., None]) -> inspect.Signature:
    """The signature that typer sees: these options replace the first parameter of the command."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in options.items()
    ]
    return inspect.Signature([parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + more)


def find_kubectl(given: Path | None, kubeconfig: Path | None, context: str | None) -> list[str]:
    """The first words of a command line, with the options that choose the cluster. Raises CliError without kubectl."""
    program = shutil.which(given or "kubectl")
    if program is None:
        missing = f"--kubectl {given}: is no program" if given else "kubectl is not in PATH"
        raise CliError(f"{missing}; allowed: --kubectl PATH", USAGE if given else COULD_NOT_LOOK)
    return [program, *cluster_options(kubeconfig, context)]


def cluster_options(kubeconfig: Path | None, context: str | None) -> list[str]:
    """The options that choose the cluster."""
    chosen = ["--kubeconfig", str(kubeconfig)] if kubeconfig else []
    return [*chosen, *(["--context", context] if context else [])]
