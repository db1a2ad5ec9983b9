"""Errors of the Kubernetes API as users read them, with the exit code of each. Called by
`KubeConnection` alone.
"""

import re

from vdi.cli.errors import COULD_NOT_LOOK, FINDINGS, USAGE, CliError
from vdi.kube.errors import (
    AlreadyExists,
    ApiError,
    BadRequest,
    ConfigError,
    Conflict,
    ConnectionFailed,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    Unauthorized,
)
from vdi.printable import escape

_DENIED = re.compile(
    r'User "(?P<user>[^"]+)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]+)".*?'
    r'(?:in the namespace "(?P<namespace>[^"]+)"|at the cluster scope)'
)

# Message of the API server about a value that misses a pattern: the pattern, which few people read.
_PATTERN = " in body should match '"


def in_words(error: KubeError, *, namespace: str, credentials: str, server: str | None) -> CliError:
    """An error of the API as a sentence with a remedy, and its exit code.

    `credentials` says where they come from (`kubeconfig /home/alice/.kube/config`).
    """
    match error:
        case ConfigError():
            return CliError(f"there is no cluster to connect to: {error}", COULD_NOT_LOOK)
        case ConnectionFailed():
            text = f"cannot reach the API server {error.server} ({credentials}): {error.why}"
            return CliError(text, COULD_NOT_LOOK)
        case Unauthorized():
            text = (
                f"the API server {server} rejects the credentials of {credentials}: {error.message}"
            )
            return CliError(text, COULD_NOT_LOOK)
        case Forbidden():
            return CliError(_forbidden(error, namespace), COULD_NOT_LOOK)
        case NotFound(api_missing=True):
            return CliError(
                f"the vdi CRDs are not on this cluster ({server}): install the chart,"
                f" helm upgrade --install vdi charts/vdi --namespace {namespace}"
                " --create-namespace",
                COULD_NOT_LOOK,
            )
        case NotFound() | AlreadyExists() | Conflict():
            return CliError(error.message, FINDINGS)
        case Invalid() | BadRequest():
            return CliError(_invalid(error), USAGE)
        case _:
            return CliError(f"{server}: {error}", COULD_NOT_LOOK)


def _forbidden(error: ApiError, namespace: str) -> str:
    """Name the permission that is missing: the server's sentence has user, verb, resource and
    namespace in it.
    """
    match = _DENIED.search(error.message)
    if match is None:
        return f"the API server refuses: {error.message}"
    where = "in the whole cluster"
    if match["namespace"]:
        where = f"in namespace {match['namespace']}"
    return (
        f"{match['user']} may not {match['verb']} {match['resource']} {where} (in namespace"
        f" {namespace}): an administrator of the cluster must grant that verb with a Role"
    )


def _invalid(error: ApiError) -> str:
    """The server's own words, one line for each field; a pattern only where no rule says the same
    in words.
    """
    if not error.causes:
        return f"the API server refuses this: {error.message}"
    in_words = {cause.field for cause in error.causes if _PATTERN not in cause.message}
    shown = []
    for cause in error.causes:
        if _PATTERN not in cause.message or cause.field not in in_words:
            shown.append(cause)
    said = [(escape(cause.field), escape(cause.words)) for cause in shown]
    lines = [f"  {field}: {problem}" if field else f"  {problem}" for field, problem in said]
    return "the API server refuses this:\n" + "\n".join(lines)
