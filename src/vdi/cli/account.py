"""`vdi whoami` and `vdi usage`: who the user is, where commands go, and how many hours desktops ran.

The gateway counts the hours in its history. `gateway_of` and `ask_gateway` also serve `vdi gateway user release`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer

from vdi.cli.errors import USAGE, CliError
from vdi.cli.gateway_client import GatewayClient
from vdi.cli.options import PROGRAM, KubeConnection, examples, new_app
from vdi.cli.output import Output, OutputOption, Raw, columns, fact_lines, print_data, print_lines, print_object
from vdi.cli.session.backend import Target
from vdi.cli.session.gateway_backend import GatewayTarget
from vdi.cli.session.kube_backend import KubeTarget
from vdi.cli.session.target import with_backend
from vdi.kube.config import load_config
from vdi.kube.resource import Resource
from vdi.kube.transport import Client

T = TypeVar("T")
app = new_app()

_REVIEWS = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)
# Amounts that `use` of `GET /me` counts.
_AMOUNTS = {
    "sessions": "desktops",
    "gpus": "GPUs",
    "hoursPerMonth": "hours this month",
    "gpuHoursPerMonth": "GPU hours this month",
    "homeStorage": "GiB of homes",
}


class By(StrEnum):
    """`--by` of `usage`."""

    USER = "user"
    TEMPLATE = "template"


class UsageOutput(StrEnum):
    """`-o` of `usage`."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


def gateway_of(target: Target, what: str) -> GatewayTarget:
    """The target, if it is a gateway. Raises CliError; `what` says why only a gateway can answer."""
    if isinstance(target, GatewayTarget):
        return target
    login = f"{PROGRAM} login https://portal.vdi.example.com"
    raise CliError(f"{what}, and you are not logged in to one: {login}", USAGE)


def ask_gateway(target: GatewayTarget, work: Callable[[GatewayClient], Awaitable[T]]) -> T:
    """The answer to requests with the user's token. Raises CliError."""

    async def ask() -> T:
        async with GatewayClient(target.server, token=target.login.token, ca=target.login.ca) as client:
            return await work(client)

    return asyncio.run(ask())


@app.command(epilog=examples("whoami", "whoami -o json"))
@with_backend
def whoami(
    target: Target,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show who you are, which target the session commands use, and why."""
    known = _at_gateway(target) if isinstance(target, GatewayTarget) else _at_cluster(target)
    words = {
        "User": known["user"],
        "Groups": ", ".join(known["groups"]),
        "Way": f"{known['way']}, because {known['why']}",
        "Server": known["server"],
        "Namespace": known["namespace"],
        "Until": known.get("expires", ""),
        "Use": describe_use(known.get("use", {})),
    }
    print_object(known, output, lambda: fact_lines(words))


def describe_use(use: Mapping[str, Any]) -> str:
    """Limited amounts, such as `1 of 3 desktops, 12.5 of 100 GPU hours this month`."""
    known = [(use[field], what) for field, what in _AMOUNTS.items() if field in use]
    return ", ".join(
        f"{amount['used']:g} of {amount['limit']:g} {what}" for amount, what in known if amount["limit"] is not None
    )


def _at_gateway(target: GatewayTarget) -> dict[str, Any]:
    me: dict[str, Any] = ask_gateway(target, lambda client: client.get("/me"))
    return {
        **{field: me[field] for field in ("user", "groups", "admin")},
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


@app.command(epilog=examples("usage", "usage --everyone --month 2026-11", "usage --everyone --by template -o csv"))
@with_backend
def usage(
    target: Target,
    *,
    month: Annotated[
        str | None, typer.Option("--month", help="Calendar month (UTC), such as 2026-11; default: this month.")
    ] = None,
    by: Annotated[By, typer.Option("--by", help="Rows of the table.")] = By.USER,
    everyone: Annotated[bool, typer.Option("--everyone", help="Usage of all users; for administrators.")] = False,
    output: Annotated[UsageOutput, typer.Option("--output", "-o", help="What to print.")] = UsageOutput.TABLE,
) -> None:
    """Show how many hours your desktops ran in a month."""
    area, query = "/admin" if everyone else "", {"month": month} if month else {}
    gateway = gateway_of(target, "usage is kept by the gateway")
    if output is UsageOutput.CSV:
        query |= {"what": "usage", "format": "csv", "by": by}
        typer.echo(ask_gateway(gateway, lambda client: client.text(f"{area}/export", **query)), nl=False)
        return
    report = ask_gateway(gateway, lambda client: client.get(f"{area}/usage", **query))
    if output is not UsageOutput.TABLE:
        print_data(report, Output(output.value))
        return
    rows = report[f"{by}s"]
    if not rows:
        typer.echo(f"no usage in {report['month']}", err=True)
        return
    print_lines(usage_table(rows, by))


def usage_table(rows: Sequence[Raw], by: By) -> list[str]:
    """The lines of users or templates."""
    cells = [
        [row["name"], f"{row['hours']:.1f}", f"{row['gpuHours']:.1f}", str(row["sessions"]), str(row["runs"])]
        for row in rows
    ]
    return columns([by.upper(), "HOURS", "GPU HOURS", "DESKTOPS", "RUNS"], cells)
