"""`vdi pool`: ls, show and scale. Pools keep desktops started for whoever comes next;
administrators make them.
"""

from collections.abc import Awaitable, Sequence
from typing import Annotated, Any

import msgspec
import typer

from vdi.api.pool import VDIPool
from vdi.cli.errors import CliError
from vdi.cli.options import PROGRAM, KubeConnection, examples, new_app, of_kind, with_connection
from vdi.cli.output import (
    ListOutput,
    ListOutputOption,
    Output,
    OutputOption,
    Raw,
    age,
    columns,
    condition_lines,
    fact_lines,
    now_utc,
    print_object,
    print_objects,
    without_managed_fields,
)
from vdi.kinds import POOLS
from vdi.kube.errors import NotFound
from vdi.kube.transport import Client

app = new_app("Desktops that are started in advance.")

Name = Annotated[str, typer.Argument(help="Name of the pool.", callback=of_kind("vdipool"))]


@app.command("ls", epilog=examples("pool ls", "pool ls -o wide"))
@with_connection
def list_(
    connection: KubeConnection,
    output: ListOutputOption = ListOutput.TABLE,
) -> None:
    """List the pools of the cluster."""
    pools = connection.run(lambda client: client.list(POOLS, into=dict[str, Any]))
    pools.sort(key=lambda raw: str(raw["metadata"]["name"]))
    name, empty = (lambda raw: f"vdipool/{raw['metadata']['name']}"), "no pools on this cluster"
    print_objects(pools, output, name=name, table=pool_table, empty=empty)


@app.command(epilog=examples("pool show warm", "pool show warm -o yaml"))
@with_connection
def show(
    connection: KubeConnection,
    name: Name,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show how many desktops a pool has ready, and what it waits for."""
    raw = connection.run(
        lambda client: _found(client, client.get(POOLS, name, into=dict[str, Any]), name)
    )
    print_object(
        without_managed_fields(raw), output, lambda: pool_lines(msgspec.convert(raw, VDIPool))
    )


@app.command(epilog=examples("pool scale warm --replicas 3", "pool scale warm --replicas 0"))
@with_connection
def scale(
    connection: KubeConnection,
    name: Name,
    *,
    replicas: Annotated[
        int, typer.Option("--replicas", min=0, help="Number of started desktops to keep.")
    ],
    output: OutputOption = Output.TABLE,
) -> None:
    """Change how many desktops are kept ready, as `kubectl scale vdipool` does. Desktops in use are
    not affected.
    """
    change = {"spec": {"replicas": replicas}}
    raw = connection.run(
        lambda client: _found(client, client.patch(POOLS, name, change, into=dict[str, Any]), name)
    )
    line = (
        f"pool {name}: desktops to keep ready: {replicas}; see {PROGRAM} pool show"
        f" {name}{connection.flags}"
    )
    print_object(without_managed_fields(raw), output, lambda: [line])


async def _found(client: Client, work: Awaitable[Raw], name: str) -> Raw:
    """The pool; one that is missing is an error that says which there are."""
    try:
        return await work
    except NotFound as error:
        if error.api_missing:
            raise
        there = sorted(
            str(raw["metadata"]["name"]) for raw in await client.list(POOLS, into=dict[str, Any])
        )
        known = ", ".join(there) or "none"
        raise CliError(f"there is no pool {name}; available on this cluster: {known}") from error


def pool_table(items: Sequence[Raw], wide: bool) -> list[str]:
    """The lines of `ls`."""
    now, rows = now_utc(), []
    for pool in (msgspec.convert(raw, VDIPool) for raw in items):
        meta, spec, status = pool.metadata, pool.spec, pool.status
        counts = [
            str(count) for count in (spec.replicas, status.ready, status.starting, status.claimed)
        ]
        row = [meta.name, spec.template, *counts, age(meta.creation_timestamp, now)]
        rows.append([*row, status.message or "-"] if wide else row)
    header = [
        "NAME",
        "TEMPLATE",
        "DESIRED",
        "READY",
        "STARTING",
        "CLAIMED",
        "AGE",
        *(["MESSAGE"] if wide else []),
    ]
    return columns(header, rows)


def pool_lines(pool: VDIPool) -> list[str]:
    """The lines of `show`."""
    meta, spec, status = pool.metadata, pool.spec, pool.status
    counts = f"{status.ready} of {spec.replicas}" + (
        f", {status.starting} starting" if status.starting else ""
    )
    facts = {
        "Pool": meta.name,
        "Template": spec.template,
        "Ready": counts,
        "Claimed": f"running sessions with a desktop from this pool: {status.claimed}",
        "Message": status.message,
        "Created": f"{meta.creation_timestamp} ({age(meta.creation_timestamp, now_utc())} ago)",
    }
    lines = fact_lines(facts)
    if not status.conditions:
        return [
            *lines,
            "",
            "No conditions yet: the operator has not processed the pool. Is it running?",
        ]
    return [*lines, *condition_lines(status.conditions, now_utc())]
