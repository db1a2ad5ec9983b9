"""The namespace of a command that was given none: where the release or the gateway is."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from vdi.api.meta import RELEASE_NAMESPACE
from vdi.cli.errors import USAGE, CliError
from vdi.cli.options import KubeConnection

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
