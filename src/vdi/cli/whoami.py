"""`vdi whoami`: the user, where commands go, and why."""

import asyncio
from collections.abc import Mapping
from typing import Any

import typer

from vdi.cli.gateway_client import GatewayClient
from vdi.cli.options import KubeConnection, examples
from vdi.cli.output import Output, OutputOption, fact_lines, print_data
from vdi.cli.session.backend import Target
from vdi.cli.session.gateway_backend import GatewayTarget
from vdi.cli.session.kube_backend import KubeTarget
from vdi.cli.session.target import with_backend
from vdi.kube.config import load_config
from vdi.kube.resource import Resource
from vdi.kube.transport import Client

app = typer.Typer()

_REVIEWS = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)

# What `use` of `GET /me` counts.
_AMOUNTS = {
    "sessions": "desktops",
    "gpus": "GPUs",
    "hoursPerMonth": "hours this month",
    "gpuHoursPerMonth": "GPU hours this month",
    "homeStorage": "GiB of homes",
}


@app.command(epilog=examples("whoami", "whoami -o json"))
@with_backend
def whoami(
    target: Target,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show who you are, which target the session commands use, and why."""

    known = _at_gateway(target) if isinstance(target, GatewayTarget) else _at_cluster(target)
    if output is not Output.TABLE:
        print_data(known, output)
        return
    words = {
        "User": known["user"],
        "Groups": ", ".join(known["groups"]),
        "Way": f"{known['way']}, because {known['why']}",
        "Server": known["server"],
        "Namespace": known["namespace"],
        "Until": known.get("expires", ""),
        "Use": describe_use(known.get("use", {})),
    }
    for line in fact_lines(words):
        typer.echo(line)


def describe_use(use: Mapping[str, Any]) -> str:
    """What is limited, such as `1 of 3 desktops, 12.5 of 100 GPU hours this month`."""
    known = [(use[field], what) for field, what in _AMOUNTS.items() if field in use]
    return ", ".join(
        f"{amount['used']:g} of {amount['limit']:g} {what}" for amount, what in known if _is_limited(amount)
    )


def _is_limited(amount: Mapping[str, Any]) -> bool:
    return amount["limit"] is not None


def _at_gateway(target: GatewayTarget) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with GatewayClient(target.server, token=target.login.token, ca=target.login.ca) as client:
            answer: dict[str, Any] = await client.get("/me")
            return answer

    me = asyncio.run(ask())
    return {
        "user": me["user"],
        "groups": me["groups"],
        "admin": me["admin"],
        "way": "through the gateway",
        "why": target.why,
        "server": target.server,
        "namespace": me["namespace"],
        "expires": target.login.expires,
        "use": me["use"],
    }


def _at_cluster(target: Target) -> dict[str, Any]:
    assert isinstance(target, KubeTarget)  # noqa: S101 -- there are two kinds
    connection: KubeConnection = target.connection

    async def ask(client: Client) -> dict[str, Any]:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await client.create(_REVIEWS, review, into=dict[str, Any])
        found: dict[str, Any] = answer["status"]["userInfo"]
        return found

    who = connection.run(ask)
    return {
        "user": who.get("username", ""),
        "groups": who.get("groups", []),
        "way": "to the cluster",
        "why": target.why,
        "server": load_config(connection.kubeconfig, connection.context).server,
        "namespace": connection.namespace,
    }
