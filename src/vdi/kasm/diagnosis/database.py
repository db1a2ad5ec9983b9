"""The database answers, and API or manager do not find in it what they look for: who should have put it there?"""

from typing import Any

from vdi.findings.model import Remedy
from vdi.kasm.diagnosis.installation import Installation
from vdi.kasm.diagnosis.link import Explainer, Link, link
from vdi.kasm.diagnosis.pods import KasmContainer, KasmPod
from vdi.kasm.diagnosis.waits import Target
from vdi.kasm.diagnosis.workloads import first_job, job_refusal

_PATIENCE = 90.0
"""Seconds for which a wait may go on after all is done: generation C's asks every 30."""


def explain_tables(
    explainer: Explainer, pod: KasmPod, container: KasmContainer, target: Target
) -> tuple[Link | None, str]:
    """Why the tables cannot be read."""
    kasm = explainer.kasm
    job: Any = first_job(kasm)
    if job is None:
        return _no_job(kasm, container, target), "it was never initialised"
    name = str(job["metadata"]["name"])
    conditions = {condition["type"]: condition for condition in (job.get("status") or {}).get("conditions") or ()}
    ended = {kind for kind in ("Failed", "Complete") if conditions.get(kind, {}).get("status") == "True"}
    pods = kasm.pods_selected_by((job["spec"].get("selector") or {}).get("matchLabels") or {"job-name": name})
    if "Failed" in ended:
        return _failed(kasm, name, conditions["Failed"]), f"the Job {name} has failed"
    if "Complete" in ended:
        return _unreadable(kasm, pod, container, target, name), f"the Job {name} is done"
    if pods:
        return explainer.explain(pods[0]), f"the Job {name} has not initialised it yet"
    if refused := job_refusal(kasm, name):
        return refused, f"the Job {name} has no pod"
    return None, f"the Job {name} has not started"


def _failed(kasm: Installation, name: str, condition: Any) -> Link:
    why = condition.get("message", "no reason given")
    return link(
        "kasm_db_init_failed",
        f"job/{kasm.namespace}/{name}",
        f"The Job {name}, which creates the database's tables, has given up: {why}.",
        evidence=[f"Failed: {condition.get('reason', '')}: {why}"],
        # Its pod is gone, and the log with it.
        remedy=Remedy(
            "Delete the Job, then run helm upgrade, which creates it again; vdi kasm diagnose shows its log while it"
            " runs.",
            (f"kubectl --namespace {kasm.namespace} delete job {name}",),
        ),
    )


def _no_job(kasm: Installation, container: KasmContainer, target: Target) -> Link:
    path = kasm.generation.paths.get("initialize", "") if kasm.generation else ""
    value = f" --set {path}=true" if path else ""
    seconds = kasm.snapshot.age(container.running_since)
    return link(
        "kasm_database_not_initialised",
        f"service/{kasm.namespace}/{target.host}",
        f"The database {target.host} responds, but has had no table zones for {int(seconds)} s. There is no db-init "
        "Job that would create it.",
        evidence=[f"{container.name} waits for rows in zones", "no Job named ...db-init..."],
        remedy=Remedy(
            f"Only if the database is new and empty, run helm upgrade of the release {kasm.release} with "
            f"--reuse-values{value}. Otherwise find out why its contents are missing, and restore the backup."
        ),
        is_starting=seconds < _PATIENCE,
    )


def _unreadable(kasm: Installation, pod: KasmPod, container: KasmContainer, target: Target, job: str) -> Link:
    seconds = kasm.snapshot.age(container.running_since)
    return link(
        "kasm_database_not_initialised",
        f"service/{kasm.namespace}/{target.host}",
        f"The Job {job} has initialised the database {target.host}, but {pod.name} still cannot read it after "
        f"{int(seconds)} s. Most likely the password in the Secret is not the database's (a new Secret with an old "
        "volume).",
        evidence=[f"job/{job}: Complete", f"{container.name} waits for rows in zones"],
        remedy=Remedy.run(
            f"kubectl --namespace {kasm.namespace} exec {pod.name} --container {container.name} -- sh -c"
            f' \'PGPASSWORD=$POSTGRES_PASSWORD psql -h {target.host} -U "${{POSTGRES_USER:-kasmapp}}"'
            ' -d "${POSTGRES_DB:-kasm}" -c "select 1"\''
        ),
        is_starting=seconds < _PATIENCE,
    )
