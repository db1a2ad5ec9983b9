"""Which way a command goes, to a cluster or to a gateway, and why: by options, environment, login."""

import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec
from urllib.parse import urlsplit

import typer

from vdi.cli.failures import COULD_NOT_LOOK, USAGE, CommandFailedError
from vdi.cli.options import DEFAULT_NAMESPACE, PROGRAM, TARGET_OPTIONS, Target, signature_with
from vdi.cli.remote_client import is_local
from vdi.cli.remote_login import Logins, read_logins
from vdi.cli.remote_way import GatewayPlace
from vdi.cli.session_cluster import ClusterPlace
from vdi.cli.session_way import Place
from vdi.kube.http import url_host

P = ParamSpec("P")


def choose(target: Target, server: str | None, environ: Mapping[str, str]) -> GatewayPlace | ClusterPlace:
    """The way. Raises CommandFailedError where what was asked for does not go together, or nobody is logged in there.

    A login counts less than whatever names a cluster on purpose (an option, KUBECONFIG, being in a pod), and more than
    the kubeconfig that happens to lie in the home directory.
    """
    if target.kubeconfig or target.context:
        if server:
            raise CommandFailedError(
                f"--server {server} goes to a gateway, --kubeconfig and --context to a cluster: give one of them", USAGE
            )
        return ClusterPlace(target, "--kubeconfig or --context (VDI_KUBECONFIG, VDI_CONTEXT) names a cluster")
    if server:
        return _gateway(read_logins(), server_url(server), target, "--server or VDI_SERVER names it")
    if environ.get("KUBECONFIG"):
        return ClusterPlace(target, "KUBECONFIG names a cluster")
    if "KUBERNETES_SERVICE_HOST" in environ:
        return ClusterPlace(target, "this is a pod of a cluster")
    logins = read_logins()
    if logins.current:
        return _gateway(logins, logins.current, target, f"you are logged in there ({PROGRAM} login)")
    return ClusterPlace(target, "nobody is logged in to a gateway, so ~/.kube/config counts")


def _gateway(logins: Logins, server: str, target: Target, why: str) -> GatewayPlace:
    login = logins.gateways.get(server)
    if login is None:
        known = ", ".join(logins.gateways) or "none"
        raise CommandFailedError(
            f"you are not logged in to {server} (logged in to: {known}). Log in: {PROGRAM} login {server}",
            COULD_NOT_LOOK,
        )
    if target.namespace != DEFAULT_NAMESPACE:
        raise CommandFailedError(
            f"a gateway has one namespace, so --namespace {target.namespace} does not go with {server}:"
            " leave it out (VDI_NAMESPACE too), or name a cluster with --kubeconfig",
            USAGE,
        )
    return GatewayPlace(server, login, why, named=server != logins.current)


def server_url(text: str) -> str:
    """A gateway's address without path and slash: `https://portal.vdi.example.com:8443`. Raises CommandFailedError.

    Plain HTTP only to this machine: a token must not go over a network in the open.
    """
    parts = urlsplit(text if "://" in text else f"https://{text}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    good = parts.scheme == "https" or (parts.scheme == "http" and is_local(parts.hostname or ""))
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if not parts.hostname or not good or extra or port == 0:
        raise CommandFailedError(
            f"{text!r} is not the address of a portal; allowed are addresses such as"
            " https://portal.vdi.example.com (http:// on this machine only, and no path)",
            USAGE,
        )
    default = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{url_host(parts.hostname)}" + (f":{port}" if port and port != default else "")


_SERVER = Annotated[
    str | None,
    typer.Option(envvar="VDI_SERVER", help="Gateway to go through; without it the one of `login`, or the cluster."),
]


def on_either(command: Callable[Concatenate[Place, P], None]) -> Callable[..., None]:
    """Give a command the options that choose the way, in the place of its first parameter."""

    @wraps(command)
    def with_place(
        *args: Any, namespace: str, kubeconfig: Path | None, context: str | None, server: str | None, **rest: Any
    ) -> None:
        target = Target(namespace, kubeconfig, context)
        command(choose(target, server, os.environ), *args, **rest)

    options = {**TARGET_OPTIONS, "server": (_SERVER, None)}
    with_place.__signature__ = signature_with(options, command)  # type: ignore[attr-defined]
    return with_place
