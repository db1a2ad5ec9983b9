"""`vdi whoami`: who one is, where commands go, and why."""

import asyncio
from typing import Annotated, Any

import typer

from vdi.cli.options import Target, examples
from vdi.cli.output import Output, print_data
from vdi.cli.remote_choice import on_either
from vdi.cli.remote_client import GatewayClient
from vdi.cli.remote_way import GatewayPlace
from vdi.cli.session_cluster import ClusterPlace
from vdi.cli.session_way import Place
from vdi.kube.config import load_config
from vdi.kube.resource import Resource
from vdi.kube.transport import Client

app = typer.Typer()

_REVIEWS = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)


@app.command(epilog=examples("whoami", "whoami -o json"))
@on_either
def whoami(
    place: Place,
    output: Annotated[Output, typer.Option("--output", "-o", help="What to print.")] = Output.TABLE,
) -> None:
    """Who you are where the session commands go, which way that is, and why."""
    known = _at_gateway(place) if isinstance(place, GatewayPlace) else _at_cluster(place)
    if output is not Output.TABLE:
        print_data(known, output)
        return
    words = {
        "User": known["user"],
        "Groups": ", ".join(known["groups"]),
        "Way": f"{known['way']}, since {known['why']}",
        "Server": known["server"],
        "Namespace": known["namespace"],
        "Until": known.get("expires", ""),
    }
    for name, value in words.items():
        if value:
            typer.echo(f"{name + ':':<11}{value}")


def _at_gateway(place: GatewayPlace) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with GatewayClient(place.server, token=place.login.token, ca=place.login.ca) as client:
            answer: dict[str, Any] = await client.get("/me")
            return answer

    me = asyncio.run(ask())
    return {
        "user": me["user"],
        "groups": me["groups"],
        "admin": me["admin"],
        "way": "through the gateway",
        "why": place.why,
        "server": place.server,
        "namespace": me["namespace"],
        "expires": place.login.expires,
        "use": me["use"],
    }


def _at_cluster(place: Place) -> dict[str, Any]:
    assert isinstance(place, ClusterPlace)  # noqa: S101 -- there are two kinds
    target: Target = place.target

    async def ask(client: Client) -> dict[str, Any]:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await client.create(_REVIEWS, review, into=dict[str, Any])
        found: dict[str, Any] = answer["status"]["userInfo"]
        return found

    who = target.run(ask)
    return {
        "user": who.get("username", ""),
        "groups": who.get("groups", []),
        "way": "to the cluster",
        "why": place.why,
        "server": load_config(target.kubeconfig, target.context).server,
        "namespace": target.namespace,
    }
