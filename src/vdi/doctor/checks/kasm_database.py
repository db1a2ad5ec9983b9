"""The database answers, and API or manager do not find in it what they look for: who should have put it there?"""

from typing import Any

from vdi.doctor.checks.kasm_link import Asking, Link, link
from vdi.doctor.checks.kasm_workloads import first_job, job_refusal
from vdi.doctor.kasm import Kasm
from vdi.doctor.kasm_parts import Box, Part
from vdi.doctor.kasm_waits import Target
from vdi.findings.model import Remedy

_PATIENCE = 90.0
"""Seconds for which a wait may go on after all is done: generation C's asks every 30."""


def ask_tables(asking: Asking, part: Part, box: Box, target: Target) -> tuple[Link | None, str]:
    """Why the tables cannot be read."""
    kasm = asking.kasm
    job: Any = first_job(kasm)
    if job is None:
        return _nobody(kasm, part, box, target), "nobody has initialised it"
    name = str(job["metadata"]["name"])
    conditions = {one["type"]: one for one in (job.get("status") or {}).get("conditions") or ()}
    ended = {kind for kind in ("Failed", "Complete") if conditions.get(kind, {}).get("status") == "True"}
    parts = kasm.parts_chosen_by((job["spec"].get("selector") or {}).get("matchLabels") or {"job-name": name})
    if "Failed" in ended:
        return _failed(kasm, name, conditions["Failed"]), f"the Job {name} has failed"
    if "Complete" in ended:
        return _unreadable(kasm, part, box, target, name), f"the Job {name} is done"
    if parts:
        told = asking.ask(parts[0])
        return told, f"the Job {name} has not initialised it yet"
    if refused := job_refusal(kasm, name):
        return refused, f"the Job {name} has no pod"
    return None, f"the Job {name} has not begun"


def _failed(kasm: Kasm, name: str, condition: Any) -> Link:
    why = condition.get("message", "no reason given")
    return link(
        "kasm_db_init_failed",
        f"job/{kasm.namespace}/{name}",
        f"The Job {name}, which makes the database's tables, has given up: {why}.",
        evidence=[f"Failed: {condition.get('reason', '')}: {why}"],
        # Its pod is gone, and the log with it.
        remedy=Remedy(
            "Delete the Job, then run helm upgrade, which creates it again; vdi kasm diagnose shows its log while it"
            " tries.",
            (f"kubectl --namespace {kasm.namespace} delete job {name}",),
        ),
    )


def _nobody(kasm: Kasm, part: Part, box: Box, target: Target) -> Link:
    path = kasm.generation.paths.get("initialize", "") if kasm.generation else ""
    value = f" --set {path}=true" if path else ""
    seconds = kasm.snapshot.age(box.running_since)
    return link(
        "kasm_database_not_initialised",
        f"service/{kasm.namespace}/{target.host}",
        f"The database {target.host} answers, {part.name} has looked in it for the table zones for"
        f" {int(seconds)} s, and"
        " there is no db-init Job that would make it.",
        evidence=[f"{box.name} waits for rows in zones", "no Job named ...db-init..."],
        remedy=Remedy(
            f"Only where the database is new and empty, run helm upgrade of the release {kasm.release} with"
            f" --reuse-values{value}. Else find out why its contents are gone, and restore the backup."
        ),
        soft=seconds < _PATIENCE,
    )


def _unreadable(kasm: Kasm, part: Part, box: Box, target: Target, job: str) -> Link:
    seconds = kasm.snapshot.age(box.running_since)
    return link(
        "kasm_database_not_initialised",
        f"service/{kasm.namespace}/{target.host}",
        f"The Job {job} has initialised the database {target.host}, and {part.name} still cannot read it after"
        f" {int(seconds)} s: most likely the password in the Secret is not the database's (a Secret made anew"
        " beside an old"
        " volume).",
        evidence=[f"job/{job}: Complete", f"{box.name} waits for rows in zones"],
        remedy=Remedy.run(
            f"kubectl --namespace {kasm.namespace} exec {part.name} --container {box.name} -- sh -c"
            " 'PGPASSWORD=$POSTGRES_PASSWORD psql -h $POSTGRES_HOST -U $POSTGRES_USER -d $POSTGRES_DB -c \"select 1\"'"
        ),
        soft=seconds < _PATIENCE,
    )
