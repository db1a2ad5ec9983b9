"""Options of the commands that run Helm, and the namespace of a release or gateway where none was
given.

Used by install, upgrade, uninstall, `kasm install` and `gateway user`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vdi.api.meta import RELEASE_NAMESPACE
from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput
from vdi.cli.options import (
    CLUSTER_OPTIONS,
    DryRun,
    KubeConnection,
    Options,
    Yes,
    replace_parameter,
    seconds_of,
)
from vdi.cli.output import Output, OutputOption
from vdi.helm.arguments import Place
from vdi.helm.errors import HelmUnavailableError
from vdi.helm.run import Helm, find_helm
from vdi.release.chart import release_namespaces

if TYPE_CHECKING:
    from vdi.kube.transport import Client

ValuesFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--values",
        "-f",
        metavar="FILE",
        help="Values; the last file takes precedence. Put secrets here.",
    ),
]
Timeout = Annotated[str, typer.Option("--timeout", help="Time limit until everything is ready.")]


@dataclass(frozen=True, slots=True)
class ReleaseOptions:
    """Cluster, namespace, release, helm."""

    # Its namespace is empty until `located`, where none was given.
    connection: KubeConnection
    release: str
    helm: Helm
    seconds: float
    output: Output | FindingsOutput

    @property
    def place(self) -> Place:
        """Cluster and namespace, as helm takes them."""
        return Place(self.connection.namespace, self.connection.kubeconfig, self.connection.context)

    def located(self) -> "ReleaseOptions":
        """With the namespace that the release is in, where none was given. Raises CliError."""
        connection = locate(
            self.connection,
            lambda client: release_namespaces(client, self.release),
            f"the release {self.release}",
        )
        return replace(self, connection=connection)


@dataclass(frozen=True, slots=True)
class ChangeOptions:
    """Options of an install or upgrade."""

    at: ReleaseOptions
    # None: the chart included in vdi.
    chart: Path | None
    files: tuple[Path, ...]
    sets: tuple[str, ...]
    # Public key that chart and images must be signed with.
    key: Path | None
    dry_run: bool
    yes: bool


def release_options(
    connection: KubeConnection,
    release: str,
    timeout: str,
    output: Output | FindingsOutput,
    helm: Path | None = None,
) -> ReleaseOptions:
    """Everything checked that can be without a cluster. Raises CliError."""
    seconds = seconds_of("--timeout", timeout)
    try:
        return ReleaseOptions(connection, release, find_helm(helm), seconds, output)
    except HelmUnavailableError as error:
        raise CliError(str(error), USAGE if helm else COULD_NOT_LOOK) from error


def _release_options(
    *, namespace: str | None, kubeconfig: Path | None, context: str | None, **options: Any
) -> ReleaseOptions:
    return release_options(KubeConnection(namespace or "", kubeconfig, context), **options)


def _change_options(
    *,
    values: list[Path] | None,
    sets: list[str] | None,
    chart: Path | None,
    verify: Path | None,
    dry_run: bool,
    yes: bool,
    **release: Any,
) -> ChangeOptions:
    at, files = _release_options(**release), existing_files(values)
    if verify is not None and not verify.is_file():
        raise CliError(
            f"--verify {verify}: there is no such file; allowed: the public key of the release",
            USAGE,
        )
    return ChangeOptions(at, chart, files, tuple(sets or ()), verify, dry_run, yes)


_RELEASE: Options = {
    "namespace": (
        Annotated[
            str | None,
            typer.Option(
                "--namespace",
                "-n",
                envvar="VDI_RELEASE_NAMESPACE",
                help=(
                    "Namespace of operator and gateway; default: the release's namespace, or"
                    f" {RELEASE_NAMESPACE}."
                ),
            ),
        ],
        None,
    ),
    "release": (Annotated[str, typer.Option("--release", help="Name of the Helm release.")], "vdi"),
    "helm": (
        Annotated[
            Path | None,
            typer.Option("--helm", metavar="PATH", help="Helm 3 or 4; default: the one in PATH."),
        ],
        None,
    ),
    "timeout": (Timeout, "10m"),
    "output": (OutputOption, Output.TABLE),
    **CLUSTER_OPTIONS,
}
_CHANGE: Options = {
    "values": (ValuesFiles, None),
    "sets": (
        Annotated[
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help="A single value, as for helm."),
        ],
        None,
    ),
    "chart": (
        Annotated[
            Path | None,
            typer.Option(
                "--chart", metavar="DIR", help="The chart; default: the one included in vdi."
            ),
        ],
        None,
    ),
    "verify": (
        Annotated[
            Path | None,
            typer.Option(
                "--verify",
                metavar="KEY",
                help=(
                    "Public key: chart and images must be signed with its private key. Needs the"
                    " program cosign."
                ),
            ),
        ],
        None,
    ),
    "dry_run": (DryRun, False),
    "yes": (Yes, False),
    **_RELEASE,
    "output": (FindingsOption, FindingsOutput.TEXT),
}
with_release = replace_parameter(_RELEASE, _release_options)
with_change = replace_parameter(_CHANGE, _change_options)


def existing_files(values: list[Path] | None) -> tuple[Path, ...]:
    """The values files. Raises CliError for one that is not there."""
    for value in values or ():
        if not value.is_file():
            raise CliError(
                f"-f {value}: there is no such file; allowed: YAML files with values", USAGE
            )
    return tuple(value.absolute() for value in values or ())


def locate(
    connection: KubeConnection, find: Callable[["Client"], Awaitable[list[str]]], what: str
) -> KubeConnection:
    """The connection with a namespace: the given one, else where `what` is, else the default.
    Raises CliError.
    """
    if connection.namespace:
        return connection
    namespaces = connection.run(find)
    if len(namespaces) > 1:
        there = ", ".join(namespaces)
        raise CliError(
            f"--namespace is missing: {what} is in several namespaces; allowed: {there}", USAGE
        )
    (namespace,) = namespaces or [RELEASE_NAMESPACE]
    if namespace != RELEASE_NAMESPACE:
        typer.echo(f"Found {what} in namespace {namespace}.", err=True)
    return replace(connection, namespace=namespace)
