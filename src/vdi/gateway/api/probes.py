"""`/sessions/{name}/probe`: for `vdi session probe`, which measures what a person in front of a desktop gets."""

from typing import Annotated

import msgspec
from msgspec import Meta

from vdi.gateway.api.operation import Call, Empty, Operation
from vdi.gateway.api.problems import ProblemError, invalid
from vdi.gateway.probing import MOST, WINDOW, Begun, Stage, TooManyProbesError
from vdi.latency_probe.measurements import Measurements


class NewProbe(msgspec.Struct, forbid_unknown_fields=True):
    """A probe to start."""

    state: Annotated[
        str,
        Meta(
            description=(
                "SHA-256, in hexadecimal, of a secret that you choose: the ticket works only with the cookie "
                "`__Host-vdi-state` that contains the secret."
            ),
            pattern=r"^[0-9a-f]{64}$",
        ),
    ]


class ProbeResult(msgspec.Struct, forbid_unknown_fields=True):
    """Result of a probe: either figures or failed."""

    figures: Annotated[Measurements | None, Meta(description="The measured values.")] = None
    failed: Annotated[Stage | None, Meta(description="The stage in which it failed.")] = None


async def begin_probe(call: Call[Empty, NewProbe]) -> Begun:
    """The mark is armed, the way is open."""
    try:
        return await call.api.prober.begin(call.user, call.path("name"), call.body.state)
    except TooManyProbesError as error:
        detail = f"The desktop {str(error)!r} has already been probed {MOST} times within {WINDOW} s."
        raise ProblemError("too-many-requests", detail, headers={"Retry-After": str(WINDOW)}) from error


async def finish_probe(call: Call[Empty, ProbeResult]) -> None:
    """Its figures."""
    found = call.body.figures or call.body.failed
    if found is None or (call.body.figures and call.body.failed):
        raise invalid("figures", None, "either `figures` or `failed`, not both")
    await call.api.prober.finish(call.user, call.path("name"), call.path("id"), found)


OPERATIONS = (
    Operation(
        method="POST", path="/sessions/{name}/probe", name="beginProbe", tag="Desktops", handler=begin_probe,
        summary="Start to measure the latency of one of your desktops",
        description=(
            "Shows a small mark in a corner of the screen for one minute. The mark responds to two keys that no "
            "keyboard has. Also opens a connection to the desktop. `vdi session probe` does the rest. The idle "
            "timeout does not count it as activity."
        ),
        body=NewProbe, answer=Begun, problems=("not-found", "forbidden", "conflict"),
    ),
    Operation(
        method="PUT", path="/sessions/{name}/probe/{id}", name="finishProbe", tag="Desktops", handler=finish_probe,
        summary="Submit the results of a probe; they count in the metrics", body=ProbeResult,
        problems=("not-found", "forbidden"),
    ),
)  # fmt: skip
"""All of them."""
