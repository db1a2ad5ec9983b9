"""`/homes`: the volumes with a person's own files."""

from typing import Annotated

import msgspec

from vdi.api.constraints import doc
from vdi.gateway.api.operation import Call, Empty, Operation
from vdi.session.home_list import HomeSummary


class HomeList(msgspec.Struct):
    """Homes, by name."""

    items: Annotated[tuple[HomeSummary, ...], doc("All of your homes.")]


async def list_homes(call: Call[Empty, None]) -> HomeList:
    """My homes."""
    return HomeList(tuple(call.cluster.homes_of(call.user.email)))


async def get_home(call: Call[Empty, None]) -> HomeSummary:
    """One of my homes."""
    return call.api.actions.own_home(call.user, call.path("name"))


async def delete_home(call: Call[Empty, None]) -> None:
    """The end of one of my homes."""
    await call.api.actions.delete_home(call.user, call.path("name"))


OPERATIONS = (
    Operation(
        method="GET", path="/homes", name="listHomes", tag="Homes", handler=list_homes,
        summary="Your homes: size, last use, and the desktops that use them", answer=HomeList,
    ),
    Operation(
        method="GET", path="/homes/{name}", name="getHome", tag="Homes", handler=get_home,
        summary="One of your homes", answer=HomeSummary, problems=("not-found",),
    ),
    Operation(
        method="DELETE", path="/homes/{name}", name="deleteHome", tag="Homes", handler=delete_home,
        summary="Delete one of your homes and all files in it",
        description="Fails while a session uses the home. End the session first.",
        problems=("not-found", "conflict"),
    ),
)  # fmt: skip
