"""Checks of a desktop's own log, settings, graphics and image.

`sessions` asks `code_of_words` for the cause of a crash; everything else here is called through `CHECKS`.
"""

import re
import shlex
from collections.abc import Iterator, Sequence

from vdi.api.session import GraphicsStatus
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Event
from vdi.cluster.units import amount
from vdi.diagnosis.check import check
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.references import secrets_to_sign_in, templates_with_tls
from vdi.doctor.objects.sessions import SessionDiagnosis, active, diagnose_sessions
from vdi.findings.model import Finding, Remedy, Severity
from vdi.gpu.sharing.state import PRODUCT_LABEL, lacks_encoder
from vdi.session.children import DESKTOP_TRANSPORT
from vdi.session.credentials import PASSWORD_KEY, SECRET_TYPE, USERNAME_KEY
from vdi.session.effective import Desktop
from vdi.session.streaming import (
    CAPABILITY_MISSING,
    DRIVER_NOT_LOADABLE,
    NOT_ON_X11,
    generation,
    obsolete_encoders,
    renders_on_gpu,
)

_LIBRARY = re.compile(
    r"(?:(\S+\.so[.\d]*): cannot open shared object file|error while loading shared libraries: (\S+?):)"
)
_DENIED = re.compile(r"(?=.*permission denied).*?(/home/[^\s'’\":`]*)", re.IGNORECASE)
_PICTURE = re.compile(
    r"((?:cannot|can't|unable to) open display.*|failed to (?:start|initiali[sz]e)"
    " .*(?:captur|encod|pipeline|stream).*)",
    re.IGNORECASE,
)
_NO_SPACE = "No space left on device"
_LISTENS = re.compile(r"(?:running|listening|serving|started)\b.*?[:\s](\d{2,5})\b", re.IGNORECASE)
# Bytes: what container runtimes give where no one asks for more, and the least with which browsers run.
_LEAST_SHM = 64 << 20

# Thousandths of a CPU with which a desktop starts within a minute.
_LEAST_CPU = 250
_SAID: tuple[tuple[str, re.Pattern[str], str], ...] = (
    (
        "home_not_writable",
        _DENIED,
        "The desktop cannot write to its home ({0}): the volume's folder belongs to root, or has mode 0700.",
    ),
    ("selkies_error", _PICTURE, "Selkies cannot create a picture: {0}."),
    ("selkies_error", re.compile(r"(address already in use.*)", re.IGNORECASE), "Selkies cannot listen: {0}."),
)


def code_of_words(words: str) -> str:
    """The code of what a desktop has said last; empty: nothing that is known."""
    if _LIBRARY.search(words):
        return "library_missing"
    if _NO_SPACE in words:
        return "home_full"
    return next((code for code, pattern, _ in _SAID if pattern.search(words)), "")


@check("vdisessions", "pods")
def logs_speak(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops whose log says why there is no picture, also of those that count as ready ("Waiting for stream")."""
    for diagnosis in active(diagnose_sessions(snapshot)):
        pod = diagnosis.pod
        lines = snapshot.logs.get(f"{diagnosis.namespace}/{pod.metadata.name}") if pod else None
        if not pod or not lines:
            continue
        if finding := _library(diagnosis, lines) or _no_space(diagnosis, lines) or _known_words(diagnosis, lines):
            yield finding


def _library(diagnosis: SessionDiagnosis, lines: list[str]) -> Finding | None:
    assert diagnosis.pod is not None  # noqa: S101 - the caller has looked
    for line in lines:
        if match := _LIBRARY.search(line):
            library, template = match[1] or match[2], diagnosis.session.spec.template
            shown = "waits for a stream that never starts" if diagnosis.pod.ready else "does not start"
            return make_finding(
                "library_missing",
                f"pod/{diagnosis.namespace}/{diagnosis.pod.metadata.name}",
                f"The image of {template!r} lacks the library {library}: the desktop {shown}.",
                evidence=[f"log: {line.strip()}"],
                remedy=Remedy(
                    f"Add the package with {library.split('/')[-1]} to the image, then set the new image here:",
                    (f"kubectl edit vditemplate {template}",),
                ),
                related_objects=diagnosis.related_objects,
            )
    return None


def _no_space(diagnosis: SessionDiagnosis, lines: list[str]) -> Finding | None:
    pod, home = diagnosis.pod, diagnosis.home
    line = next((line for line in reversed(lines) if _NO_SPACE in line), None)
    if pod is None or line is None:
        return None
    command = f"kubectl --namespace {diagnosis.namespace}"
    name = diagnosis.session.metadata.name
    return make_finding(
        "home_full",
        f"persistentvolumeclaim/{diagnosis.namespace}/{home.metadata.name}" if home else diagnosis.object,
        f"The desktop {name} cannot write: no space is left in its home or on the disk of its node.",
        evidence=[f"log: {line.strip()}"],
        remedy=Remedy(
            "Find the full file system, then delete files there.",
            (f"{command} exec {pod.metadata.name} -- df -h", f"kubectl describe node {pod.spec.node_name}"),
        ),
        related_objects=diagnosis.related_objects,
    )


def _known_words(diagnosis: SessionDiagnosis, lines: list[str]) -> Finding | None:
    assert diagnosis.pod is not None  # noqa: S101 - the caller has looked
    for line in lines:
        for code, pattern, words in _SAID:
            match = pattern.search(line)
            if not match:
                continue
            pod, namespace = diagnosis.pod.metadata.name, diagnosis.namespace
            return make_finding(
                code,
                f"pod/{namespace}/{pod}",
                words.format(match[1].strip().rstrip(".")),
                evidence=[f"log: {line.strip()}"],
                remedy=_give_home(diagnosis)
                if code == "home_not_writable"
                else Remedy.run(f"kubectl --namespace {namespace} logs {pod}"),
                related_objects=diagnosis.related_objects,
            )
    return None


def _give_home(diagnosis: SessionDiagnosis) -> Remedy:
    """Where the folder is, on which node, and how it becomes the desktop's."""
    volume = diagnosis.home.spec.volume_name if diagnosis.home else ""
    spec = (diagnosis.snapshot.find("persistentvolumes", volume) or {}).get("spec") or {}
    path = (spec.get("hostPath") or spec.get("local") or {}).get("path")
    if not path or diagnosis.pod is None or diagnosis.template is None:
        return Remedy.run(f"kubectl get pv {volume} --output yaml" if volume else "kubectl get pv")
    user = diagnosis.template.spec.run_as_user
    return Remedy(
        f"On the node {diagnosis.pod.spec.node_name}, make the desktop's user the owner of the folder.",
        (f"chown -R {user}:{user} {shlex.quote(path)}",),
    )


@check("vditemplates", "vdisessions")
def encoders_obsolete(snapshot: Snapshot) -> Iterator[Finding]:
    """Templates in use that name encoders which Selkies 2 does not know."""
    used = {session.spec.template for session in snapshot.sessions}
    for name, template in sorted(snapshot.templates.items()):
        if name not in used or generation(template.spec) != "2":
            continue
        chosen = (
            next((variable.value for variable in template.spec.env if variable.name == "SELKIES_ENCODER"), "") or ""
        )
        if old := obsolete_encoders(chosen):
            yield make_finding(
                "encoder_obsolete",
                f"vditemplate/{name}",
                f"SELKIES_ENCODER names {', '.join(old)}, an encoder of Selkies 1. Selkies 2 ignores it and chooses "
                "its own.",
                evidence=[f"spec.env SELKIES_ENCODER={chosen}"],
                remedy=Remedy(
                    "Set SELKIES_ENCODER=h264enc, which uses the GPU's encoder if there is one.",
                    (f"kubectl edit vditemplate {name}",),
                ),
            )


@check("vditemplates", "vdisessions", "pods", "events")
def ports_wrong(snapshot: Snapshot) -> Iterator[Finding]:
    """Templates whose port is not the one that their desktops listen on."""
    for diagnosis in active(diagnose_sessions(snapshot)):
        template, pod = snapshot.templates.get(diagnosis.session.spec.template), diagnosis.pod
        if template is None or pod is None or pod.ready or not pod.desktop or not pod.desktop.state.running:
            continue
        port, name = template.spec.port, template.metadata.name
        refused = any(
            "connection refused" in event.note and f":{port}/" in event.note for event in _unhealthy(diagnosis)
        )
        setting = next(
            (variable.value for variable in template.spec.env if variable.name == "SELKIES_PORT" and variable.value), ""
        )
        lines = snapshot.logs.get(f"{diagnosis.namespace}/{pod.metadata.name}") or []
        said = [(match[1], line) for line in lines if (match := _LISTENS.search(line))]
        if setting.isdecimal() and setting != str(port):
            listens, proof = setting, f"vditemplate/{name}: spec.env SELKIES_PORT={setting}"
        elif refused and said and str(port) not in {number for number, _ in said}:
            listens, proof = said[-1][0], f"log: {said[-1][1].strip()}"
        else:
            continue
        patch = f'\'{{"spec":{{"port":{listens}}}}}\''
        yield make_finding(
            "desktop_port_wrong",
            f"vditemplate/{name}",
            f"The desktop listens on port {listens}, but its template `{name}` has port {port}: no probe succeeds.",
            evidence=[proof, f"vditemplate/{name}: spec.port: {port}"],
            remedy=Remedy(
                "Set the template's port to the one that the desktop listens on, then restart the session.",
                (
                    f"kubectl patch vditemplate {name} --type merge --patch {patch}",
                    f"vdi session restart {diagnosis.session.metadata.name} -n {diagnosis.namespace}",
                ),
            ),
            related_objects=diagnosis.related_objects,
        )


def _unhealthy(diagnosis: SessionDiagnosis) -> list[Event]:
    return [event for event in diagnosis.observed.events if event.reason == "Unhealthy"]


@check("vditemplates", "vdisessions")
def shared_memory_small(snapshot: Snapshot) -> Iterator[Finding]:
    """Templates in use whose /dev/shm is too small for a browser."""
    used = {diagnosis.session.spec.template for diagnosis in active(diagnose_sessions(snapshot))}
    for name, template in sorted(snapshot.templates.items()):
        size = template.spec.shm_size
        if name not in used or amount("memory", size) >= _LEAST_SHM:
            continue
        patch = '\'{"spec":{"shmSize":"1Gi"}}\''
        yield make_finding(
            "shm_too_small",
            f"vditemplate/{name}",
            f"Template `{name}` sets /dev/shm to {size}: browsers crash with less than 64Mi.",
            evidence=[f"vditemplate/{name}: spec.shmSize: {size}"],
            remedy=Remedy(
                "Raise it for desktops that start from now on.",
                (f"kubectl patch vditemplate {name} --type merge --patch {patch}",),
            ),
        )


@check("vditemplates", "vdisessions", "pods")
def cpu_limits_low(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops that may use too little of a processor, and where their limit comes from."""
    for diagnosis in active(diagnose_sessions(snapshot)):
        desktop, session = diagnosis.desktop, diagnosis.session
        if not isinstance(desktop, Desktop) or amount("cpu", desktop.cpu) >= _LEAST_CPU:
            continue
        template, name, namespace = session.spec.template, session.metadata.name, diagnosis.namespace
        own = session.spec.resources and session.spec.resources.cpu is not None
        where = diagnosis.object if own else f"vditemplate/{template}"
        command = f"--namespace {namespace} patch vdisession {name}" if own else f"patch vditemplate {template}"
        spec = '{"cpu":"1"}' if own else '{"defaultCPU":"1"}'
        ready = diagnosis.pod is not None and diagnosis.pod.ready
        source = "the session" if own else f"template `{template}`"
        yield make_finding(
            "cpu_limit_low",
            where,
            f"The desktop may use {desktop.cpu} of a CPU (limit from {source}): it is throttled"
            f"{'' if ready else ' and does not become ready'}.",
            evidence=[f"limit {desktop.cpu} from {where}", f"a desktop needs at least {_LEAST_CPU}m"],
            remedy=Remedy(
                "Raise the limit, then restart the session.",
                (
                    f'kubectl {command} --type merge --patch \'{{"spec":{{"resources":{spec}}}}}\'',
                    f"vdi session restart {name} -n {namespace}",
                ),
            ),
            severity=None if ready else Severity.ERROR,
            related_objects=diagnosis.related_objects,
        )


CHECKS = (logs_speak, encoders_obsolete, ports_wrong, shared_memory_small, cpu_limits_low)


@check("vdisessions", "vditemplates", "pods")
def graphics_in_software(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops with a GPU that draw on the CPU, by the reason that they report."""
    for diagnosis in active(diagnose_sessions(snapshot)):
        graphics = diagnosis.session.status.graphics
        has_gpu = isinstance(diagnosis.desktop, Desktop) and diagnosis.desktop.gpu > 0
        if graphics is None or diagnosis.pod is None or not has_gpu or renders_on_gpu(graphics):
            continue
        yield _graphics_finding(diagnosis, diagnosis.pod.metadata.name, graphics)


def _graphics_finding(diagnosis: SessionDiagnosis, pod: str, graphics: GraphicsStatus) -> Finding:
    name, namespace, template = diagnosis.session.metadata.name, diagnosis.namespace, diagnosis.session.spec.template
    restart = f"vdi session restart {name} -n {namespace}"
    read_log = f"kubectl --namespace {namespace} logs {pod}"
    if graphics.reason == CAPABILITY_MISSING:
        code = "graphics_capability_missing"
        message = f"The desktop {name} has a GPU but renders on the CPU: NVIDIA_DRIVER_CAPABILITIES lacks `graphics`."
        remedy = Remedy(
            "Add `graphics` to NVIDIA_DRIVER_CAPABILITIES in `spec.env`, or remove the variable there. Then "
            "restart the desktop.",
            (f"kubectl edit vditemplate {template}", restart),
        )
    elif graphics.reason == DRIVER_NOT_LOADABLE:
        code = "graphics_driver_not_loadable"
        message = (
            f"The desktop {name} has a GPU but renders on the CPU: NVIDIA's driver cannot be loaded in its container."
        )
        remedy = Remedy(
            "Read the loader's error, then restart the desktop. Only new pods use an upgraded driver.",
            (read_log, restart),
        )
    else:
        code = "graphics_in_software"
        said = f" ({graphics.message})" if graphics.message else ""
        message = f"The desktop {name} has a GPU but renders on the CPU{said}."
        if graphics.reason == NOT_ON_X11:
            patch = """-p '{"spec":{"streaming":{"display":"Auto"}}}'"""
            remedy = Remedy(
                "Allow Wayland in the template, which this GPU needs. Then restart the desktop.",
                (f"kubectl patch vditemplate {template} --type merge {patch}", restart),
            )
        else:
            remedy = Remedy("See what the desktop tried, then restart it.", (read_log, restart))
    return make_finding(
        code,
        diagnosis.object,
        message,
        evidence=[f"status.graphics: {graphics.renderer}, {graphics.reason or 'no reason'}: {graphics.message}"],
        remedy=remedy,
        related_objects=[*diagnosis.related_objects, f"vditemplate/{template}"],
    )


@check("nodes", "vditemplates")
def encoders_missing(snapshot: Snapshot) -> Iterator[Finding]:
    """Nodes whose GPUs cannot encode, where templates give desktops a GPU."""
    templates = sorted(name for name, template in snapshot.templates.items() if template.spec.resources.default_gpu > 0)
    if not templates:
        return
    for node in snapshot.raw("nodes"):
        name = node["metadata"]["name"]
        product = (node["metadata"].get("labels") or {}).get(PRODUCT_LABEL, "")
        if not lacks_encoder(product):
            continue
        yield make_finding(
            "gpu_encoder_missing",
            f"node/{name}",
            f"The GPUs of node {name} ({product}) have no video encoder: desktops there encode on the CPU.",
            evidence=[f"node/{name}: {PRODUCT_LABEL}={product}"],
            remedy=Remedy(
                "Choose nodes whose GPU has NVENC, in `spec.placement.nodeSelector` of the template.",
                (f"kubectl get nodes --label-columns {PRODUCT_LABEL}", f"kubectl edit vditemplate {templates[0]}"),
            ),
        )


GRAPHICS_CHECKS = (graphics_in_software, encoders_missing)

# As the chart has it.
_SERVERS_TRANSPORT = (
    '{"apiVersion": "traefik.io/v1alpha1", "kind": "ServersTransport", '
    f'"metadata": {{"name": "{DESKTOP_TRANSPORT}"}}, "spec": {{"insecureSkipVerify": true}}}}'
)


@check("vditemplates", "deployments", "secrets@basicAuthSecret")
def basic_auth_secrets_bad(snapshot: Snapshot) -> Iterator[Finding]:
    """Secrets that templates name to sign in to their images, and that are not there or cannot be used."""
    for (namespace, name), templates in secrets_to_sign_in(snapshot).items():
        secret = snapshot.find("secrets", name, namespace)
        if secret and not secret["problem"]:
            continue
        kind = secret["type"] if secret else SECRET_TYPE
        used = _count_sessions(snapshot, namespace, templates)
        yield make_finding(
            "basic_auth_secret_missing",
            f"secret/{namespace}/{name}",
            f"{_names(templates)} in basicAuthSecret the Secret {namespace}/{name}, which "
            f"{secret['problem'] if secret else 'does not exist'}. The gateway cannot sign in: desktops respond "
            "with 503.",
            evidence=[
                *(f"vditemplate/{template.metadata.name}: spec.basicAuthSecret.name: {name}" for template in templates),
                f"{used} sessions in namespace {namespace} use these templates",
            ],
            remedy=Remedy(
                "Write the image's user name and password into the files username and password, without a trailing "
                "newline. Then:",
                (
                    f"kubectl --namespace {namespace} create secret generic {name} --type {kind}"
                    f" --from-file {USERNAME_KEY} --from-file {PASSWORD_KEY} --dry-run=client -o yaml"
                    " | kubectl apply -f -",
                ),
            ),
            severity=None if used else Severity.WARNING,
        )


@check("vditemplates", "deployments", "serverstransports")
def servers_transport_missing(snapshot: Snapshot) -> Iterator[Finding]:
    """Namespaces without the ServersTransport that routes to images with TLS name."""
    if "serverstransports" in snapshot.absent:
        return  # so are Traefik's other kinds
    for namespace, templates in templates_with_tls(snapshot).items():
        if snapshot.find("serverstransports", DESKTOP_TRANSPORT, namespace):
            continue
        used = _count_sessions(snapshot, namespace, templates)
        yield make_finding(
            "servers_transport_missing",
            f"serverstransport/{namespace}/{DESKTOP_TRANSPORT}",
            f"The ServersTransport {namespace}/{DESKTOP_TRANSPORT} does not exist. Traefik ignores the routes of "
            "desktops with scheme HTTPS (404).",
            evidence=[
                *(f"vditemplate/{template.metadata.name}: spec.scheme: HTTPS" for template in templates),
                f"{used} sessions in namespace {namespace} use these templates",
            ],
            remedy=Remedy.run(f"kubectl --namespace {namespace} apply -f - <<< '{_SERVERS_TRANSPORT}'"),
            severity=None if used else Severity.WARNING,
        )


def _count_sessions(snapshot: Snapshot, namespace: str, templates: Sequence[VDITemplate]) -> int:
    names = {template.metadata.name for template in templates}
    return sum(
        session.metadata.namespace == namespace and session.spec.template in names for session in snapshot.all_sessions
    )


def _names(templates: Sequence[VDITemplate]) -> str:
    names = ", ".join(template.metadata.name for template in templates)
    return f"Template {names} names" if len(templates) == 1 else f"Templates {names} name"


IMAGE_CHECKS = (basic_auth_secrets_bad, servers_transport_missing)
