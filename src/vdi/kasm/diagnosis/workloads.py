"""Explanations below a wait: the Service, the pods behind it, the database's tables, a workload
without pods, a volume. Pure.

Called by `chains`, which follows each wait down to its one cause.
"""

import difflib
import re
from collections.abc import Iterator

from vdi.cluster.explain import first_line
from vdi.cluster.objects import PodCondition
from vdi.findings.model import Remedy, Severity
from vdi.kasm.diagnosis.codes import Explainer, Link, link
from vdi.kasm.generations.model import matches
from vdi.kasm.installation import Installation, KasmContainer, KasmPod, Workload
from vdi.kube.resource import IS_DEFAULT_CLASS
from vdi.snapshot.dns import dns_down
from vdi.snapshot.objects.network import Service
from vdi.snapshot.objects.storage import PersistentVolumeClaim, StorageClass
from vdi.snapshot.objects.workloads import Job
from vdi.snapshot.waits import Target

# Seconds in which a controller makes its pods.
_POD_PATIENCE = 20.0


def explain_workload(kasm: Installation, workload: Workload, *, awaited: bool) -> Link | None:
    """The reason why a workload has no pods; None when it has some."""
    if kasm.pods_selected_by(workload.selector):
        return None
    if workload.desired == 0:
        return link(
            "kasm_scaled_to_zero",
            workload.object,
            f"{workload.name} is scaled to 0: it runs no pod.",
            evidence=["spec.replicas: 0"],
            remedy=Remedy.run(
                f"kubectl --namespace {kasm.namespace} scale {workload.kind} {workload.name}"
                " --replicas 1"
            ),
            severity=Severity.ERROR if awaited else Severity.WARNING,
        )
    if refusal := _refusal(kasm, workload):
        return _refused(kasm, workload.object, workload.name, refusal)
    age = kasm.snapshot.age(workload.raw.metadata.creation_timestamp)
    return link(
        "kasm_pods_missing",
        workload.object,
        f"{workload.name} should have {workload.desired} pods, but has had none for {int(age)} s,"
        " and no Event gives a reason.",
        evidence=[f"spec.replicas: {workload.desired}, pods: 0"],
        remedy=Remedy.run(
            f"kubectl --namespace {kasm.namespace} describe {workload.kind} {workload.name}"
        ),
        is_starting=age < _POD_PATIENCE,
    )


def _refusal(kasm: Installation, workload: Workload) -> str:
    """With which words its pods were refused; empty: they were not."""
    for condition in workload.raw.status.conditions:
        if condition.type == "ReplicaFailure" and condition.status == "True":
            return condition.message
    for (kind, namespace, name), events in kasm.snapshot.events.items():
        owns = name == workload.name or (
            kind == "ReplicaSet" and name.startswith(f"{workload.name}-")
        )
        refused = [event.note for event in events if event.reason == "FailedCreate"]
        if namespace == kasm.namespace and owns and refused:
            return refused[-1]
    return ""


def _refused(kasm: Installation, where: str, name: str, message: str) -> Link:
    if violation := re.search(r'violates PodSecurity "([^":]+)[^"]*": (.*)', message, re.DOTALL):
        containers = re.findall(r'container "([^"]+)"', violation[2])
        named = ""
        if containers:
            named = f" (container {', '.join(dict.fromkeys(containers))})"
        path = ""
        if kasm.generation:
            path = kasm.generation.paths.get("hardening", "")
        return link(
            "kasm_pod_security",
            where,
            f"Pod Security {violation[1]!r} of the namespace {kasm.namespace} refuses the pods of"
            f" {name}{named}: {first_line(violation[2])}",
            evidence=[message],
            remedy=Remedy(
                (
                    f"Relax Pod Security of the namespace, or set {path}: false in the values."
                    if path
                    else ""
                ),
                (
                    (
                        f"kubectl label namespace {kasm.namespace} --overwrite"
                        " pod-security.kubernetes.io/enforce=baseline"
                    ),
                ),
            ),
            related_objects=[f"namespace/{kasm.namespace}"],
        )
    reason = re.sub(r'^.*?pods? "[^"]*" is forbidden: ', "", message)
    return link(
        "kasm_pods_refused",
        where,
        f"The API server refuses the pods of {name}: {first_line(reason)}",
        evidence=[f"FailedCreate: {message}"],
        remedy=Remedy(
            "Correct what the message names.",
            (f"kubectl --namespace {kasm.namespace} get resourcequota,limitrange,serviceaccount",),
        ),
    )


def first_job(kasm: Installation) -> Job | None:
    """The Job that makes the database's tables, if it is there: the newest, should there be
    several.
    """
    jobs = [job for job in kasm.jobs if "db-init" in job.metadata.name]
    return max(jobs, key=lambda job: job.metadata.creation_timestamp, default=None)


def job_refusal(kasm: Installation, name: str) -> Link | None:
    """The reason why the Job has no pod, where the API server refuses it."""
    for event in kasm.snapshot.events.get(("Job", kasm.namespace, name), ()):
        if event.reason == "FailedCreate":
            return _refused(kasm, f"job/{kasm.namespace}/{name}", name, event.note)
    return None


# Seconds in which a provisioner makes a volume.
_CLAIM_PATIENCE = 60.0


def explain_claim(kasm: Installation, name: str, pod: KasmPod) -> Link:
    """The reason why a claim is not bound."""
    where = f"persistentvolumeclaim/{kasm.namespace}/{name}"
    describe = f"kubectl --namespace {kasm.namespace} describe pvc {name}"
    claim = kasm.snapshot.find("persistentvolumeclaims", name, kasm.namespace)
    if claim is None:
        return link(
            "kasm_claim_missing",
            where,
            f"{pod.name} mounts the claim {name}, which does not exist.",
            evidence=[f"pod/{pod.name}: spec.volumes names {name}"],
            remedy=Remedy(
                f"Create it, or run helm upgrade of the release {kasm.release}, which does."
            ),
        )
    phase = claim.status.phase or "Pending"
    if phase == "Lost":
        return link(
            "kasm_claim_pending",
            where,
            f"The claim {name} is Lost: its volume {claim.spec.volume_name} no longer exists, and"
            " its data is lost.",
            evidence=["status.phase: Lost"],
            remedy=Remedy("Restore the volume from a backup.", (describe,)),
        )
    classes = {each.metadata.name: each for each in kasm.snapshot.objects.storageclasses}
    class_name = claim.spec.storage_class_name
    known = "storageclasses" not in kasm.snapshot.unreadable_kinds
    if known and class_name not in classes and not claim.spec.volume_name:
        return _class_missing(kasm, pod, name, class_name, sorted(classes))
    return _unprovisioned(kasm, claim, classes.get(class_name or ""), phase)


def _class_missing(
    kasm: Installation, pod: KasmPod, name: str, class_name: str | None, there: list[str]
) -> Link:
    to_delete = f"persistentvolumeclaim/{name}"
    for workload in kasm.workloads:
        owns = workload.selector and workload.selector.items() <= pod.labels.items()
        if workload.kind == "statefulset" and owns:
            # Its claims cannot be changed: it is deleted with them.
            to_delete = f"statefulset/{workload.name} {to_delete}"
            break
    path = ""
    if kasm.generation:
        path = kasm.generation.paths.get("storage_class", "")
    value = "Correct its storageClassName"
    if path:
        value = f"Set {path} in the values"
    available = f"available: {', '.join(there) or 'none'}."
    if class_name:
        message = (
            f"The claim {name} requests the StorageClass {class_name!r}, which does not exist;"
            f" {available}"
        )
        how = f"{value}, delete what is listed below (the volume is empty), then run helm upgrade."
        remedy = Remedy(how, (f"kubectl --namespace {kasm.namespace} delete {to_delete}",))
    else:
        message = (
            f"The claim {name} sets no StorageClass, and the cluster has no default; {available}"
        )
        remedy = Remedy("Install a provisioner, and make its StorageClass the default.")
        if there:
            remedy = Remedy.run(f"kubectl annotate storageclass {there[0]} {IS_DEFAULT_CLASS}=true")
    evidence = [f"spec.storageClassName: {class_name or '(none)'}", "status.phase: Pending"]
    where = f"persistentvolumeclaim/{kasm.namespace}/{name}"
    return link("kasm_claim_class_missing", where, message, evidence=evidence, remedy=remedy)


def _unprovisioned(
    kasm: Installation, claim: PersistentVolumeClaim, made_by: StorageClass | None, phase: str
) -> Link:
    name, snapshot = claim.metadata.name, kasm.snapshot
    where = f"persistentvolumeclaim/{kasm.namespace}/{name}"
    events = snapshot.events_of(claim.metadata.uid)
    failed = [event for event in events if event.reason == "ProvisioningFailed"]
    chosen = claim.metadata.annotations.get("volume.kubernetes.io/selected-node", "")
    age = snapshot.age(claim.metadata.creation_timestamp)
    provisioner = made_by.provisioner if made_by else "the provisioner"
    describe = f"kubectl --namespace {kasm.namespace} describe pvc {name}"
    if failed:
        return link(
            "kasm_claim_pending",
            where,
            f"The provisioner {provisioner} cannot create the volume of {name}:"
            f" {first_line(failed[-1].note)}",
            evidence=[f"ProvisioningFailed: {failed[-1].note}"],
            remedy=Remedy.run(describe),
            related_objects=[f"node/{chosen}"],
        )
    return link(
        "kasm_claim_pending",
        where,
        f"The claim {name} has waited {int(age)} s for {provisioner}, which reports nothing.",
        evidence=[
            f"status.phase: {phase}, no Event ProvisioningFailed",
            f"selected node: {chosen or 'none yet'}",
        ],
        remedy=Remedy(
            f"Check whether {provisioner} is running.",
            ("kubectl get pods --all-namespaces", describe),
        ),
        related_objects=[f"node/{chosen}"],
        is_starting=age < _CLAIM_PATIENCE,
    )


# Seconds for which a wait may go on after all is done: generation C's asks every 30.
_TABLES_PATIENCE = 90.0


def explain_tables(
    explainer: Explainer, pod: KasmPod, container: KasmContainer, target: Target
) -> tuple[Link | None, str]:
    """The reason why the database's tables cannot be read."""
    kasm = explainer.kasm
    job = first_job(kasm)
    if job is None:
        return _no_job(kasm, container, target), "it was never initialised"
    name = job.metadata.name
    ended = {
        condition.type: condition
        for condition in job.status.conditions
        if condition.status == "True"
    }
    pods = kasm.pods_selected_by(job.spec.selector.match_labels or {"job-name": name})
    if "Failed" in ended:
        return _failed(kasm, name, ended["Failed"]), f"the Job {name} has failed"
    if "Complete" in ended:
        return _unreadable(kasm, pod, container, target, name), f"the Job {name} is done"
    if pods:
        return explainer.explain(pods[0]), f"the Job {name} has not initialised it yet"
    if refused := job_refusal(kasm, name):
        return refused, f"the Job {name} has no pod"
    return None, f"the Job {name} has not started"


def _failed(kasm: Installation, name: str, condition: PodCondition) -> Link:
    why = condition.message or "no reason given"
    return link(
        "kasm_db_init_failed",
        f"job/{kasm.namespace}/{name}",
        f"The Job {name}, which creates the database's tables, has given up: {why}.",
        evidence=[f"Failed: {condition.reason}: {why}"],
        # Its pod is gone, and the log with it.
        remedy=Remedy(
            "Delete the Job, then run helm upgrade, which creates it again; vdi kasm diagnose shows"
            " its log while it runs.",
            (f"kubectl --namespace {kasm.namespace} delete job {name}",),
        ),
    )


def _no_job(kasm: Installation, container: KasmContainer, target: Target) -> Link:
    path = ""
    if kasm.generation:
        path = kasm.generation.paths.get("initialize", "")
    value = f" --set {path}=true" if path else ""
    seconds = kasm.snapshot.age(container.running_since)
    return link(
        "kasm_database_not_initialised",
        f"service/{kasm.namespace}/{target.host}",
        f"The database {target.host} responds, but has had no table zones for {int(seconds)} s."
        " There is no db-init Job that would create it.",
        evidence=[f"{container.name} waits for rows in zones", "no Job named ...db-init..."],
        remedy=Remedy(
            f"Only if the database is new and empty, run helm upgrade of the release {kasm.release}"
            f" with --reuse-values{value}. Otherwise find out why its contents are missing, and"
            " restore the backup."
        ),
        is_starting=seconds < _TABLES_PATIENCE,
    )


def _unreadable(
    kasm: Installation, pod: KasmPod, container: KasmContainer, target: Target, job: str
) -> Link:
    seconds = kasm.snapshot.age(container.running_since)
    return link(
        "kasm_database_not_initialised",
        f"service/{kasm.namespace}/{target.host}",
        f"The Job {job} has initialised the database {target.host}, but {pod.name} still cannot"
        f" read it after {int(seconds)} s. Most likely the password in the Secret is not the"
        " database's (a new Secret with an old volume).",
        evidence=[f"job/{job}: Complete", f"{container.name} waits for rows in zones"],
        remedy=Remedy.run(
            f"kubectl --namespace {kasm.namespace} exec {pod.name} --container {container.name} --"
            " sh -c"
            f" 'PGPASSWORD=$POSTGRES_PASSWORD psql -h {target.host} -U"
            ' "${POSTGRES_USER:-kasmapp}"'
            ' -d "${POSTGRES_DB:-kasm}" -c "select 1"\''
        ),
        is_starting=seconds < _TABLES_PATIENCE,
    )


# Seconds for which a wait may go on beside a Service that answers: it asks every five, and
# Endpoints take a moment.
_WAIT_PATIENCE = 45.0
# The cause, and a clause that leads to it.
Answer = tuple[Link | None, str]


def explain_service(
    explainer: Explainer, pod: KasmPod, container: KasmContainer, target: Target
) -> Answer:
    """The reason why a wait for a Service goes on."""
    kasm = explainer.kasm
    name = _service_name(kasm, target.host)
    if name is None:
        return _outside(kasm, pod, container, target), "that host is outside the cluster"
    service = kasm.services.get(name)
    if service is None:
        return _missing(kasm, pod, container, target, name), "there is no Service with that name"
    if problem := _wrong_port(kasm, service, target.port):
        return problem, "that Service does not point to it"
    total, ready = kasm.endpoints(name)
    if not ready:
        return _behind(explainer, service, total)
    if dns := _dns(kasm):
        return dns, "the cluster's DNS does not respond"
    if target.is_tables:
        return explain_tables(explainer, pod, container, target)
    return _silent(kasm, pod, container, target, ready)


def _service_name(kasm: Installation, host: str) -> str | None:
    """The Service of Kasm's namespace that a host name means; None: it means something else."""
    name, _, rest = host.partition(".")
    inside = ("", kasm.namespace, f"{kasm.namespace}.svc")
    if rest in inside or rest.startswith(f"{kasm.namespace}.svc."):
        return name
    return None


def _outside(kasm: Installation, pod: KasmPod, container: KasmContainer, target: Target) -> Link:
    return link(
        "kasm_outside_silent",
        f"host/{target.host}",
        f"{pod.name} waits for {target.host}:{target.port}, which is not a Service of"
        f" {kasm.namespace} and does not respond.",
        evidence=[f"pod/{pod.name} waits for {target.scheme}://{target.host}:{target.port}"],
        remedy=Remedy.run(
            f"kubectl --namespace {kasm.namespace} run ask --rm -it --restart Never --image"
            f" docker.io/library/busybox -- nc -zv {target.host} {target.port}"
        ),
        is_starting=kasm.snapshot.age(container.running_since) < _WAIT_PATIENCE,
    )


def _missing(
    kasm: Installation, pod: KasmPod, container: KasmContainer, target: Target, name: str
) -> Link:
    near = difflib.get_close_matches(name, kasm.services, n=1)
    return link(
        "kasm_service_missing",
        f"service/{kasm.namespace}/{name}",
        f"There is no Service {name} in the namespace {kasm.namespace}, but init container"
        f" {container.name} of {pod.name} waits for it.{f' There is {near[0]}.' if near else ''}",
        evidence=[
            (
                f"pod/{pod.name}: {container.name} waits for"
                f" {target.scheme}://{target.host}:{target.port}"
            ),
            f"Services: {', '.join(sorted(kasm.services)) or 'none'}",
        ],
        remedy=Remedy(
            f"Run helm upgrade of the release {kasm.release}, which creates the chart's Services"
            " again. If the name comes from the values, correct it there."
        ),
    )


def _wrong_port(kasm: Installation, service: Service, awaited: int) -> Link | None:
    """The port that is asked for is not one of the Service, or leads where nothing can be.

    A number that no container declares proves nothing: declaring is optional, and Kasm's charts
    leave ports out.
    """
    name = service.metadata.name
    numbers = [port.port for port in service.spec.ports]
    if awaited and awaited not in numbers:
        there = ", ".join(map(str, sorted(numbers))) or "none"
        return _port_link(
            kasm,
            service,
            f"The Service {name} has no port {awaited}, which a pod waits for; it has: {there}.",
            f"spec.ports: {there}",
        )
    for number, target, declared in _undeclared_targets(kasm, service):
        is_missing = isinstance(target, str) or _is_moved(kasm, service, number, target)
        if awaited in (0, number) and is_missing:
            return _port_link(
                kasm,
                service,
                f"The Service {name} sends port {number} to {target}, on which none of its pods"
                f" listens; declared ports: {declared}.",
                f"spec.ports: port {number}, targetPort {target}",
                f"containers' ports: {declared}",
            )
    return None


def _undeclared_targets(
    kasm: Installation, service: Service
) -> Iterator[tuple[int, int | str, str]]:
    """Ports of the Service whose target no pod behind it declares: number, target, and what is
    declared.
    """
    pods = kasm.pods_selected_by(service.spec.selector)
    ports = [port for pod in pods for container in pod.containers for port in container.spec.ports]
    names_and_numbers = {port.name for port in ports} | {port.container_port for port in ports}
    declared = ", ".join(sorted({str(port.container_port) for port in ports}))
    for port in service.spec.ports:
        number = port.port
        target = port.target_port or number
        if ports and target not in names_and_numbers:
            yield number, target, declared


def _is_moved(kasm: Installation, service: Service, number: int, target: int | str) -> bool:
    """Whether the component listens on the Service's own number, as its chart has it, and the
    Service leads past it.
    """
    pods = kasm.pods_selected_by(service.spec.selector)
    component = None
    if kasm.generation and pods:
        component = kasm.generation.component_of(pods[0].labels)
    return component is not None and number in component.ports and target != number


def _port_link(kasm: Installation, service: Service, message: str, *evidence: str) -> Link:
    name = service.metadata.name
    return link(
        "kasm_service_port_wrong",
        f"service/{kasm.namespace}/{name}",
        message,
        evidence=evidence,
        remedy=Remedy(
            f"Run helm upgrade of the release {kasm.release}, or edit the Service.",
            (f"kubectl --namespace {kasm.namespace} edit service {name}",),
        ),
    )


def _behind(explainer: Explainer, service: Service, total: int) -> Answer:
    """No pod behind it is ready: which ones should be?"""
    kasm, name = explainer.kasm, service.metadata.name
    selector = service.spec.selector
    pods = kasm.pods_selected_by(selector)
    unready = [pod for pod in pods if not pod.ready]
    if unready:
        explained = [explainer.explain(pod) for pod in unready]
        worst = min(explained, key=lambda end: end.is_starting)
        whom = f"{unready[0].name}, which is not ready"
        if len(unready) > 1:
            whom = f"{len(unready)} pods, none of which is ready"
        return worst, f"the Service {name} points to {whom}"
    workloads = kasm.workloads_selected_by(selector)
    if pods:
        return (
            None,
            f"its pods ({max(total, len(pods))}) are just being added to the Service {name}",
        )
    if workloads:
        return explain_workload(kasm, workloads[0], awaited=True), f"{workloads[0].name} has no pod"
    return _selects_nothing(kasm, service), "that Service selects no pod"


def _selects_nothing(kasm: Installation, service: Service) -> Link:
    name, selector = service.metadata.name, service.spec.selector
    nearest = max(
        kasm.workloads,
        key=lambda workload: (
            sum(workload.pod_labels.get(key) == value for key, value in selector.items()),
            difflib.SequenceMatcher(None, name, workload.name).ratio(),
        ),
        default=None,
    )
    selector_text = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
    evidence = [f"spec.selector: {selector_text}"]
    remedy = Remedy(f"Run helm upgrade of the release {kasm.release}.")
    if nearest:
        has = {key: nearest.pod_labels.get(key, "") for key in selector}
        evidence.append(
            f"{nearest.kind}/{nearest.name} has:"
            f" {','.join(f'{k}={v}' for k, v in sorted(has.items()))}"
        )
        if right := ",".join(f"{key}={value}" for key, value in sorted(nearest.selector.items())):
            remedy = Remedy.run(
                f"kubectl --namespace {kasm.namespace} set selector service {name} '{right}'"
            )
    return link(
        "kasm_service_selects_nothing",
        f"service/{kasm.namespace}/{name}",
        f"The Service {name} selects pods with {selector_text}, which no component of Kasm "
        f"has{f'; {nearest.name} is probably meant' if nearest else ''}.",
        evidence=evidence,
        remedy=remedy,
    )


def _dns(kasm: Installation) -> Link | None:
    """The finding that the cluster's DNS does not respond; None when it does."""
    return next((Link(finding) for finding in dns_down.run(kasm.snapshot)), None)


def _silent(
    kasm: Installation, pod: KasmPod, container: KasmContainer, target: Target, ready: int
) -> Answer:
    seconds = kasm.snapshot.age(container.running_since)
    if seconds < _WAIT_PATIENCE:
        return None, "that has just become ready"
    service = kasm.services[target.host.partition(".")[0]]
    for number, port, declared in _undeclared_targets(kasm, service):
        if number == target.port:
            problem = _port_link(
                kasm,
                service,
                f"The Service {target.host} sends port {number} to {port}, which none of its pods"
                f" declares; declared ports: {declared}. {container.name} of {pod.name} has"
                f" received no response there for {int(seconds)} s.",
                f"spec.ports: port {number}, targetPort {port}",
                f"containers' ports: {declared}",
            )
            return problem, "that Service does not point to it"
    return (
        link(
            "kasm_service_silent",
            f"service/{kasm.namespace}/{target.host}",
            f"The Service {target.host} has {ready} ready pods, but has not responded to {pod.name}"
            f" for {int(seconds)} s (init container {container.name}).",
            evidence=[
                f"endpoints ready: {ready}",
                *(f"log: {line}" for line in pod.log(container)),
            ],
            remedy=Remedy.run(
                f"kubectl --namespace {kasm.namespace} exec {pod.name} --container {container.name}"
                f" -- curl -v {target.scheme}://{target.host}:{target.port}{target.path}",
                f"kubectl --namespace {kasm.namespace} get networkpolicy",
            ),
            related_objects=[f"pod/{kasm.namespace}/{pod.name}"],
        ),
        "it gets no response although pods are ready",
    )


def check_services(explainer: Explainer) -> Iterator[Link]:
    """Services that lead to no pod, whether or not something waits for them."""
    kasm = explainer.kasm
    for service in kasm.own_services:
        selector = service.spec.selector
        if not kasm.pods_selected_by(selector) and not kasm.workloads_selected_by(selector):
            if not _is_switched_off(kasm, service):
                yield _selects_nothing(kasm, service)
        elif problem := _wrong_port(kasm, service, 0):
            yield problem


def _is_switched_off(kasm: Installation, service: Service) -> bool:
    """Whether it belongs to an optional component without a workload: charts make such Services all
    the same.
    """
    is_optional = False
    for component in kasm.generation.components if kasm.generation else ():
        is_its = component.service and matches(component.service, service.metadata.name)
        if not component.switch or not is_its:
            continue
        is_optional = True
        if any(matches(component.name, workload.name) for workload in kasm.workloads):
            return False
    return is_optional
