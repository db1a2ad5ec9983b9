"""`/admin/gpus` and `/admin/doctor`: what there is on the nodes, and what is wrong, for administrators."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from vdi.api.constraints import doc
from vdi.findings.model import Finding
from vdi.gateway.api.operation import Call, Empty, Operation
from vdi.gateway.api.problems import ProblemError
from vdi.gateway.denied import ActionDenied
from vdi.gateway.doctor_runs import Report


class NodeGpus(msgspec.Struct):
    """One node with GPUs."""

    name: Annotated[str, doc("The node.")]
    total: Annotated[int, doc("GPUs (or shares of one) that it offers.")]
    used: Annotated[int, doc("Of those, what desktops have.")]
    cordoned: Annotated[bool, doc("Whether it takes no new desktops.")]


class Gpus(msgspec.Struct):
    """All nodes with GPUs."""

    items: Annotated[tuple[NodeGpus, ...], doc("By name.")]


class FoundFault(msgspec.Struct, rename="camel", omit_defaults=True):
    """Something that is broken, or could not be looked at."""

    code: Annotated[str, doc("What is wrong, for programs; `vdi doctor --explain CODE` tells more.")]
    severity: Annotated[
        Literal["error", "unknown", "warning"], doc("How bad it is; unknown: it could not be looked at.")
    ]
    object: Annotated[str, doc("Where.")]
    message: Annotated[str, doc("What is wrong, in a sentence.")]
    remedy: Annotated[str, doc("The command that mends it, or what to do where there is none.")]
    remedy_url: Annotated[str, doc("More about that.")] = ""
    evidence: Annotated[tuple[str, ...], doc("Fields, Events or log lines that show it.")] = ()
    caused_by: Annotated[str, doc("The finding that this one follows from, as `code object`.")] = ""


class Diagnosis(msgspec.Struct):
    """What one look at the cluster has found."""

    at: Annotated[datetime, doc("When it was looked.")]
    summary: Annotated[str, doc("In a sentence.")]
    findings: Annotated[tuple[FoundFault, ...], doc("Causes first, each with what follows from it.")]


async def get_gpus(call: Call[Empty, None]) -> Gpus:
    """GPUs by node."""
    slots = await call.api.gpu_slots.read()
    if slots.unknown:
        raise ProblemError("unavailable", slots.unknown)
    names = NodeGpus.__struct_fields__
    return Gpus(tuple(NodeGpus(**{name: getattr(node, name) for name in names}) for node in slots.nodes))


async def last_diagnosis(call: Call[Empty, None]) -> Diagnosis:
    """The last look of this replica."""
    last = call.api.doctor.last
    if last is None:
        raise ActionDenied("NotFound", "The doctor has not looked yet. Ask it to: POST to this address.")
    return _diagnosis(last)


async def diagnose(call: Call[Empty, None]) -> Diagnosis:
    """Look now."""
    return _diagnosis(await call.api.doctor.run())


def _diagnosis(report: Report) -> Diagnosis:
    if report.failed:
        raise ProblemError("unavailable", report.failed)
    found = [finding for group in report.groups for finding in (group.cause, *group.follows)]
    return Diagnosis(report.at, report.summary, tuple(_fault(finding) for finding in found))


def _fault(finding: Finding) -> FoundFault:
    fields = {name: getattr(finding, name) for name in FoundFault.__struct_fields__}
    return FoundFault(**{**fields, "remedy": finding.remedy.text})


_TAG = "Administration"

OPERATIONS = (
    Operation(
        method="GET", path="/admin/gpus", name="getGpus", tag=_TAG, handler=get_gpus, admin=True,
        summary="GPUs by node, and how many of them desktops have", answer=Gpus,
    ),
    Operation(
        method="GET", path="/admin/doctor", name="lastDiagnosis", tag=_TAG, handler=last_diagnosis, admin=True,
        summary="What the doctor found when it last looked", answer=Diagnosis, problems=("not-found",),
    ),
    Operation(
        method="POST", path="/admin/doctor", name="diagnose", tag=_TAG, handler=diagnose, admin=True,
        summary="Let the doctor look at the cluster now, for up to 30 s",
        description="With the gateway's own rights: what they do not let it read is unknown. It changes nothing.",
        answer=Diagnosis,
    ),
)  # fmt: skip
