"""Options of the commands that run Helm, and the namespace of a release or gateway where none was given.

Used by install, upgrade, uninstall, `kasm install` and `gateway user`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from vdi.api.meta import RELEASE_NAMESPACE
from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput
from vdi.cli.options import Context, Kubeconfig, KubeConnection, Options, seconds_of, signature_with
from vdi.cli.output import PageOption, PageOutput
from vdi.helm.arguments import Place
from vdi.helm.errors import HelmUnavailableError
from vdi.helm.run import Helm, find_helm
from vdi.release.chart import release_namespaces

if TYPE_CHECKING:
    from vdi.kube.transport import Client


def locate(connection: KubeConnection, find: Callable[["Client"], Awaitable[list[str]]], what: str) -> KubeConnection:
    """The connection with a namespace: the given one, else where `what` is, else the default. Raises CliError."""

    if connection.namespace:
        return connection
    namespaces = connection.run(find)
    if len(namespaces) > 1:
        there = ", ".join(namespaces)
        raise CliError(f"--namespace is missing: {what} is in several namespaces; allowed: {there}", USAGE)
    (namespace,) = namespaces or [RELEASE_NAMESPACE]
    if namespace != RELEASE_NAMESPACE:
        typer.echo(f"Found {what} in namespace {namespace}.", err=True)
    return replace(connection, namespace=namespace)


P = ParamSpec("P")
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        envvar="VDI_RELEASE_NAMESPACE",
        help=f"Namespace of operator and gateway; default: the release's namespace, or {RELEASE_NAMESPACE}.",
    ),
]
ReleaseName = Annotated[str, typer.Option("--release", help="Name of the Helm release.")]
ValuesFiles = Annotated[
    list[Path] | None,
    typer.Option("--values", "-f", metavar="FILE", help="Values; the last file takes precedence. Put secrets here."),
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A single value, as for helm.")]
ChartFolder = Annotated[
    Path | None, typer.Option("--chart", metavar="DIR", help="The chart; default: the one included in vdi.")
]
HelmPath = Annotated[Path | None, typer.Option("--helm", metavar="PATH", help="Helm 3 or 4; default: the one in PATH.")]
Timeout = Annotated[str, typer.Option("--timeout", help="Time limit until everything is ready.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help=("Check and show what would be done, without changing anything."))
]
VerifyKey = Annotated[
    Path | None,
    typer.Option(
        "--verify",
        metavar="KEY",
        help="Public key: chart and images must be signed with its private key. Needs the program cosign.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


@dataclass(frozen=True, slots=True)
class ReleaseOptions:
    """Cluster, namespace, release, helm."""

    # Its namespace is empty until `located`, where none was given.
    connection: KubeConnection
    release: str
    helm: Helm
    seconds: float
    output: PageOutput | FindingsOutput

    @property
    def place(self) -> Place:
        """As helm takes it."""
        return Place(self.connection.namespace, self.connection.kubeconfig, self.connection.context)

    def located(self) -> "ReleaseOptions":
        """With the namespace that the release is in, where none was given. Raises CliError."""
        connection = locate(
            self.connection,
            lambda client: release_namespaces(client, self.release),
            f"the release {self.release}",
        )
        return replace(self, connection=connection)


def where(
    connection: KubeConnection, release: str, helm: Path | None, timeout: str, output: PageOutput | FindingsOutput
) -> ReleaseOptions:
    """Everything checked that can be without a cluster. Raises CliError."""
    seconds = seconds_of("--timeout", timeout)
    try:
        return ReleaseOptions(connection, release, find_helm(helm), seconds, output)
    except HelmUnavailableError as error:
        raise CliError(str(error), USAGE if helm else COULD_NOT_LOOK) from error


_OPTIONS: Options = {
    "namespace": (Namespace, None),
    "release": (ReleaseName, "vdi"),
    "helm": (HelmPath, None),
    "timeout": (Timeout, "10m"),
    "output": (PageOption, PageOutput.TABLE),
    "kubeconfig": (Kubeconfig, None),
    "context": (Context, None),
}
Command = Callable[Concatenate[ReleaseOptions, P], None]


def with_release(command: Command[P]) -> Callable[..., None]:
    """Give a command the options of `ReleaseOptions` instead of its first parameter."""
    return _with_options(command, _OPTIONS)


def on_checked_release(command: Command[P]) -> Callable[..., None]:
    """Give a command that checks the cluster first these options; its `-o` is that of findings."""
    return _with_options(command, {**_OPTIONS, "output": (FindingsOption, FindingsOutput.TEXT)})


def _with_options(command: Command[P], options: Options) -> Callable[..., None]:
    @wraps(command)
    def with_release(
        *args: Any,
        namespace: str | None,
        release: str,
        helm: Path | None,
        timeout: str,
        output: PageOutput | FindingsOutput,
        kubeconfig: Path | None,
        context: str | None,
        **rest: Any,
    ) -> None:
        command(
            where(KubeConnection(namespace or "", kubeconfig, context), release, helm, timeout, output), *args, **rest
        )

    with_release.__signature__ = signature_with(options, command)  # type: ignore[attr-defined]
    return with_release


def key_that_is(key: Path | None) -> Path | None:
    """The public key. Raises CliError for one that is not there."""
    if key is not None and not key.is_file():
        raise CliError(f"--verify {key}: there is no such file; allowed: the public key of the release", USAGE)
    return key


def files_that_are(values: list[Path] | None) -> tuple[Path, ...]:
    """The values files. Raises CliError for one that is not there."""
    for value in values or ():
        if not value.is_file():
            raise CliError(f"-f {value}: there is no such file; allowed: YAML files with values", USAGE)
    return tuple(value.absolute() for value in values or ())
