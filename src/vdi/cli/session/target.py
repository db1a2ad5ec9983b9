"""Chooses a command's target, a cluster or a gateway, by options, environment and login."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, cast
from urllib.parse import urlsplit

import typer

from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError
from vdi.cli.logins import Logins, read_logins
from vdi.cli.options import (
    CONNECTION_OPTIONS,
    DEFAULT_NAMESPACE,
    PROGRAM,
    KubeConnection,
    signature_with,
)
from vdi.cli.output import Raw
from vdi.cli.session.backend import Backend, Target
from vdi.cli.session.kube_backend import KubeTarget
from vdi.kube.http import url_host
from vdi.kube.resource import DEPLOYMENTS

if TYPE_CHECKING:
    from vdi.cli.session.gateway_backend import GatewayTarget

P = ParamSpec("P")
_COMPLETION_SECONDS = 2.0
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")


def choose_target(
    connection: KubeConnection, server: str | None, environ: Mapping[str, str]
) -> "GatewayTarget | KubeTarget":
    """The target. Raises CliError when options contradict each other, or without a login there.

    A login has lower precedence than an explicit cluster (an option, KUBECONFIG, running in a pod),
    and higher than the kubeconfig in the home directory.
    """
    if connection.kubeconfig or connection.context:
        if server:
            raise CliError(
                f"--server {server} goes to a gateway, --kubeconfig and --context to a cluster:"
                " give one of them",
                USAGE,
            )
        return KubeTarget(
            connection, "--kubeconfig or --context (VDI_KUBECONFIG, VDI_CONTEXT) names a cluster"
        )
    if server:
        return _gateway(
            read_logins(), server_url(server), connection, "--server or VDI_SERVER names it"
        )
    if environ.get("KUBECONFIG"):
        return KubeTarget(connection, "KUBECONFIG names a cluster")
    if "KUBERNETES_SERVICE_HOST" in environ:
        return KubeTarget(connection, "this is a pod of a cluster")
    # Only now: a damaged file of logins must not stop commands that name a cluster.
    logins = read_logins()
    if logins.current:
        return _gateway(
            logins, logins.current, connection, f"you are logged in there ({PROGRAM} login)"
        )
    return KubeTarget(connection, "you are not logged in to a gateway, so ~/.kube/config is used")


def gateway_of(target: Target, what: str, exit_code: int = USAGE) -> "GatewayTarget":
    """The target, if it is a gateway; else the login, which counts more than KUBECONFIG here.
    Raises CliError; `what` says why only a gateway can answer.
    """
    if not isinstance(target, KubeTarget):
        return cast("GatewayTarget", target)
    connection = target.connection
    if not connection.cluster_words and (logins := read_logins()).current:
        why = f"{what}; {target.why}"
        return replace(_gateway(logins, logins.current, connection, why), says_why=True)
    raise CliError(
        f"{what}, and you are not logged in to one ({target.why}):"
        f" {PROGRAM} login {_portal_of(target)}",
        exit_code,
    )


def _portal_of(target: KubeTarget) -> str:
    """The portal's address by the operator's settings in that cluster; a placeholder where they
    cannot be read.
    """
    from vdi.release.facts import settings_of

    deployments: list[dict[str, Any]] = []
    with suppress(CliError):
        deployments = target.run(
            lambda backend: backend.client.list(
                DEPLOYMENTS, label_selector="app.kubernetes.io/name=vdi", into=dict[str, Any]
            )
        )
    cluster = settings_of(
        {**deployment, "kind": "Deployment"} for deployment in deployments
    ).cluster
    if deployments:
        return cluster.url(cluster.host(cluster.portal_label))
    return "https://portal.DOMAIN"


def complete(read: Callable[[Backend], Awaitable[list[Raw]]]) -> Callable[..., list[str]]:
    """For a shell: the names that the command's target has; none where it does not answer."""

    def names(ctx: typer.Context, incomplete: str) -> list[str]:
        given = ctx.params
        connection = KubeConnection(
            given.get("namespace") or DEFAULT_NAMESPACE,
            given.get("kubeconfig"),
            given.get("context"),
        )

        async def bounded(backend: Backend) -> list[Raw]:
            async with asyncio.timeout(_COMPLETION_SECONDS):
                return await read(backend)

        try:
            target = choose_target(connection, given.get("server"), os.environ)
            known = [str(raw["metadata"]["name"]) for raw in target.run(bounded)]
        except Exception:  # whatever it is: a message would stand in the line that is typed
            return []
        return [name for name in known if name.startswith(incomplete) and _NAME.fullmatch(name)]

    return names


complete_sessions = complete(lambda backend: backend.list(None, everywhere=False))
complete_templates = complete(lambda backend: backend.templates())


def _gateway(logins: Logins, server: str, connection: KubeConnection, why: str) -> "GatewayTarget":
    # Its HTTP client takes long to import.
    from vdi.cli.session.gateway_backend import (
        GatewayTarget,
    )

    login = logins.gateways.get(server)
    if login is None:
        known = ", ".join(logins.gateways) or "none"
        raise CliError(
            f"you are not logged in to {server} (logged in to: {known}). Log in: {PROGRAM} login"
            f" {server}",
            COULD_NOT_LOOK,
        )
    if connection.namespace != DEFAULT_NAMESPACE:
        raise CliError(
            f"a gateway knows its namespaces, so --namespace {connection.namespace} cannot be"
            f" combined with {server}: remove it (also VDI_NAMESPACE), or select a cluster with"
            " --kubeconfig",
            USAGE,
        )
    return GatewayTarget(server, login, why, named=server != logins.current)


def server_url(text: str) -> str:
    """A gateway's address without path and slash: `https://portal.vdi.example.com:8443`. Raises
    CliError.

    Plain HTTP only to this machine: a token must not go over a network in the open.
    """
    from vdi.http_client import is_local

    parts = urlsplit(text if "://" in text else f"https://{text}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    good = parts.scheme == "https" or (parts.scheme == "http" and is_local(parts.hostname or ""))
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if not parts.hostname or not good or extra or port == 0:
        raise CliError(
            f"{text!r} is not the address of a portal; allowed: addresses such as"
            " https://portal.vdi.example.com (http:// on this machine only, and no path)",
            USAGE,
        )
    default = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{url_host(parts.hostname)}" + (
        f":{port}" if port and port != default else ""
    )


_SERVER = Annotated[
    str | None,
    typer.Option(
        envvar="VDI_SERVER", help="Gateway to use; default: the one of `login`, or the cluster."
    ),
]


def with_backend(command: Callable[Concatenate[Target, P], None]) -> Callable[..., None]:
    """Replace a command's first parameter, its target, by the options that choose it."""

    @wraps(command)
    def with_target(
        *args: Any,
        namespace: str,
        kubeconfig: Path | None,
        context: str | None,
        server: str | None,
        **rest: Any,
    ) -> None:
        connection = KubeConnection(namespace, kubeconfig, context)
        command(choose_target(connection, server, os.environ), *args, **rest)

    options = {**CONNECTION_OPTIONS, "server": (_SERVER, None)}
    with_target.__signature__ = signature_with(options, command)  # type: ignore[attr-defined]
    return with_target
