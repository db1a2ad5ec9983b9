"""What the commands of `vdi home` read from the cluster."""

from collections.abc import Sequence

from vdi.api.session import VDISession
from vdi.cli.errors import CliError
from vdi.cli.options import PROGRAM, KubeConnection
from vdi.kube.resource import CLAIMS
from vdi.kube.transport import Client
from vdi.operator.kinds import SESSIONS
from vdi.session.home_list import HomeClaim, HomeSummary, summarize_homes
from vdi.session.identity import MANAGED_BY


async def read_homes(client: Client, namespace: str) -> tuple[list[HomeSummary], list[VDISession]]:
    """All homes and sessions of a namespace. Raises KubeError."""
    labels = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
    claims = await client.list(CLAIMS, namespace=namespace, label_selector=labels, into=HomeClaim)
    sessions = await client.list(SESSIONS, namespace=namespace, into=VDISession)
    return summarize_homes(claims, sessions), sessions


def find_home(homes: Sequence[HomeSummary], name: str, connection: KubeConnection) -> HomeSummary:
    """The home of this name; one that is missing is an error that says how to see which there are."""
    for home in homes:
        if home.name == name:
            return home
    listing = f"{PROGRAM} home ls{connection.flags}"
    raise CliError(f"there is no home {name} in namespace {connection.namespace}; to list all: {listing}")
