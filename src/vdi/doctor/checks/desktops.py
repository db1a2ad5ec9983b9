"""Checks of a desktop's own log, settings, graphics and image.

`sessions` asks `code_of_log` for the cause of a crash; everything else here is called through
`CHECKS`.
"""

import re
import shlex
from collections.abc import Iterable, Iterator

from vdi.api.session import Phase
from vdi.api.template import VDITemplate
from vdi.cluster.units import amount, parse_time
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.references import secrets_to_sign_in
from vdi.doctor.objects.sessions import OF_SESSIONS, SessionDiagnosis, active_sessions
from vdi.findings.model import Finding, Remedy, Severity
from vdi.gpu.sharing.state import PRODUCT_LABEL, lacks_encoder
from vdi.session.conditions import WARNING_TYPES
from vdi.session.credentials import PASSWORD_KEY, SECRET_TYPE, USERNAME_KEY
from vdi.session.effective import Desktop
from vdi.session.template_image import (
    CAPABILITY_MISSING,
    NO_GPU_DEVICE,
    NOT_ON_X11,
    generation,
    obsolete_encoders,
    renders_on_gpu,
)
from vdi.snapshot.check import check, merge_patch
from vdi.snapshot.model import Snapshot
from vdi.snapshot.objects.config import Secret
from vdi.snapshot.objects.workloads import Pod

# Lines of a desktop's log and the code that they prove, the most certain cause first: a desktop
# that lacks a library or disk space often complains about its display as well.
_LOG_RULES = (
    (
        "library_missing",
        re.compile(
            r"(\S+\.so[.\d]*): cannot open shared object file|error while loading shared libraries:"
            r" (\S+?):"
        ),
    ),
    ("home_full", re.compile(r"No space left on device")),
    (
        "home_not_writable",
        re.compile(r"(?=.*permission denied).*?(/home/[^\s'’\":`]*)", re.IGNORECASE),
    ),
    (
        "selkies_setting_invalid",
        re.compile(
            r"Invalid value(?:\(s\))? ['\"]([^'\"]{1,64})['\"] for (?:setting"
            r" )?['\"]?([a-z][a-z0-9_-]{0,63})"
        ),
    ),
    (
        "selkies_error",
        re.compile(
            r"((?:cannot|can't|unable to) open display.*|failed to (?:start|initiali[sz]e)"
            " .*(?:captur|encod|pipeline|stream).*|address already in use.*)",
            re.IGNORECASE,
        ),
    ),
)
_LISTENS = re.compile(r"(?:running|listening|serving|started)\b.*?[:\s](\d{2,5})\b", re.IGNORECASE)
# Default of container runtimes, and the least with which browsers run.
_MIN_SHM_BYTES = 64 << 20
# Thousandths of a CPU with which a desktop starts within a minute.
_MIN_MILLICPU = 250


def _read_log(lines: Iterable[str]) -> tuple[str, re.Match[str]] | None:
    lines = list(lines)
    return next(
        (
            (code, match)
            for code, pattern in _LOG_RULES
            for line in lines
            if (match := pattern.search(line))
        ),
        None,
    )


def code_of_log(text: str) -> str:
    """The code of the cause that a desktop's last words name; empty: none that is known."""
    match = _read_log([text])
    return match[0] if match else ""


@check("vdisessions", "pods", reads=(*OF_SESSIONS, "pods/log"))
def logs_speak(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops whose log says why there is no picture, also while they are ready ("Waiting for
    stream").
    """
    for diagnosis in active_sessions(snapshot):
        # A missing library is the image's fault, and its desktop may still count as ready: the log
        # is the only proof.
        if diagnosis.pod and (found := _read_log(snapshot.log_of(diagnosis.pod))):
            yield _log_finding(diagnosis, diagnosis.pod, *found)


def _log_finding(diagnosis: SessionDiagnosis, pod: Pod, code: str, match: re.Match[str]) -> Finding:
    where, name = f"pod/{diagnosis.namespace}/{pod.metadata.name}", pod.metadata.name
    captured = next((group for group in match.groups() if group), "").strip().rstrip(".")
    if code == "library_missing":
        template = diagnosis.template_name
        if pod.ready:
            shown = "waits for a stream that never starts"
        else:
            shown = "does not start"
        message = f"The image of {template!r} lacks the library {captured}: the desktop {shown}."
        remedy = Remedy(
            f"Add the package with {captured.split('/')[-1]} to the image, then set the new image"
            " here:",
            (f"kubectl edit vditemplate {template}", diagnosis.restart_command),
        )
    elif code == "home_full":
        home = diagnosis.home
        if home:
            where = f"persistentvolumeclaim/{diagnosis.namespace}/{home.metadata.name}"
        else:
            where = diagnosis.object
        message = (
            f"The desktop {diagnosis.name} cannot write: no space is left in its home or on the"
            " disk of its node."
        )
        # No command runs in a desktop that crashes. On its node, a local-path home is a folder.
        place, run, path = "Find", f"{diagnosis.kubectl} exec {name} -- ", ""
        if not pod.ready:
            place, run = f"On the node {pod.spec.node_name}, find", ""
            path = f" {shlex.quote(_home_path(diagnosis) or '/var/lib')}"
        remedy = Remedy(
            f"{place} out whether bytes (-h) or inodes (-i) are used up. Delete files there, then"
            " restart the desktop.",
            (f"{run}df -h{path}", f"{run}df -i{path}", diagnosis.restart_command),
        )
    elif code == "home_not_writable":
        message = (
            f"The desktop cannot write to its home ({captured}): the volume's folder belongs to root,"
            " or has mode 0700."
        )
        remedy = _give_home(diagnosis, pod)
    elif code == "selkies_setting_invalid":
        value, setting = match.groups()
        template = diagnosis.template_name
        message = f"Selkies does not know the value `{value}` of its setting `{setting}`."
        variable = f"SELKIES_{setting.upper().replace('-', '_')}"
        remedy = Remedy(
            f"Correct {variable} in spec.env of template `{template}`, or spec.streaming. Then"
            " restart the desktop.",
            (f"kubectl edit vditemplate {template}", diagnosis.restart_command),
        )
    else:
        if captured.lower().startswith("address"):
            problem = "listen"
        else:
            problem = "create a picture"
        message = f"Selkies cannot {problem}: {captured}."
        remedy = Remedy.run(f"{diagnosis.kubectl} logs {name}")
    return diagnosis.finding(
        code, message, object_name=where, evidence=[f"log: {match.string.strip()}"], remedy=remedy
    )


def _give_home(diagnosis: SessionDiagnosis, pod: Pod) -> Remedy:
    """The command that makes the desktop's user the owner of the home's folder on the node."""
    volume = diagnosis.home.spec.volume_name if diagnosis.home else ""
    path = _home_path(diagnosis)
    if not path or diagnosis.template is None:
        return Remedy.run(f"kubectl get pv {volume} --output yaml" if volume else "kubectl get pv")
    user = diagnosis.template.spec.user_id
    return Remedy(
        f"On the node {pod.spec.node_name}, make the desktop's user the owner of the folder.",
        (f"chown -R {user}:{user} {shlex.quote(path)}", diagnosis.restart_command),
    )


def _home_path(diagnosis: SessionDiagnosis) -> str:
    """The folder of its home on the node; empty: it has none there."""
    volume = diagnosis.home.spec.volume_name if diagnosis.home else ""
    return diagnosis.snapshot.volume_path(volume)


def _used_templates(snapshot: Snapshot, names: Iterable[str]) -> list[tuple[str, VDITemplate]]:
    return [
        (name, snapshot.templates[name])
        for name in sorted(set(names))
        if name in snapshot.templates
    ]


def _variable(template: VDITemplate, name: str) -> str:
    return next(
        (variable.value or "" for variable in template.spec.env if variable.name == name), ""
    )


@check("vditemplates", "vdisessions")
def encoders_obsolete(snapshot: Snapshot) -> Iterator[Finding]:
    """Templates in use that name encoders which Selkies 2 does not know."""
    for name, template in _used_templates(
        snapshot, (session.spec.template for session in snapshot.sessions)
    ):
        encoder = _variable(template, "SELKIES_ENCODER")
        if generation(template.spec) == "2" and (old := obsolete_encoders(encoder)):
            yield make_finding(
                "encoder_obsolete",
                f"vditemplate/{name}",
                f"SELKIES_ENCODER names {', '.join(old)}, an encoder of Selkies 1. Selkies 2"
                " ignores it and chooses its own.",
                evidence=[f"spec.env SELKIES_ENCODER={encoder}"],
                remedy=Remedy(
                    "Set SELKIES_ENCODER=h264enc, which uses the GPU's encoder if there is one.",
                    (f"kubectl edit vditemplate {name}",),
                ),
            )


@check("vditemplates", "vdisessions", "pods", "events", reads=(*OF_SESSIONS, "pods/log"))
def ports_wrong(snapshot: Snapshot) -> Iterator[Finding]:
    """Templates with another port than the one that their desktops listen on."""
    for diagnosis in active_sessions(snapshot):
        template, pod = diagnosis.template, diagnosis.pod
        if template is None or pod is None or pod.ready:
            continue
        if pod.desktop is None or not pod.desktop.state.running:
            continue
        port, name = template.spec.port, template.metadata.name
        listens, proof = _other_port(diagnosis, template, pod)
        if not listens:
            continue
        patch = merge_patch("vditemplate", name, {"spec": {"port": int(listens)}})
        yield diagnosis.finding(
            "desktop_port_wrong",
            f"The desktop listens on port {listens}, but its template `{name}` has port {port}: no"
            " probe succeeds.",
            object_name=f"vditemplate/{name}",
            evidence=[proof, f"vditemplate/{name}: spec.port: {port}"],
            remedy=Remedy(
                "Set the template's port to the one that the desktop listens on, then restart the"
                " session.",
                (patch, diagnosis.restart_command),
            ),
        )


def _other_port(diagnosis: SessionDiagnosis, template: VDITemplate, pod: Pod) -> tuple[str, str]:
    """The port on which the desktop listens, and the proof; empty: it is the template's, or not
    known.
    """
    port, setting = str(template.spec.port), _variable(template, "SELKIES_PORT")
    if setting.isdecimal() and setting != port:
        return setting, f"vditemplate/{template.metadata.name}: spec.env SELKIES_PORT={setting}"
    notes = [event.note for event in diagnosis.observed.events if event.reason == "Unhealthy"]
    if not any("connection refused" in note and f":{port}/" in note for note in notes):
        return "", ""
    listens, proof = "", ""
    for line in diagnosis.snapshot.log_of(pod):
        if match := _LISTENS.search(line):
            if match[1] == port:
                return "", ""
            listens, proof = match[1], f"log: {line.strip()}"
    return listens, proof


@check("vdisessions", "pods", "secrets@basicAuthSecret", reads=OF_SESSIONS)
def secrets_newer(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops that started with an older version of a Secret: a variable keeps its value for the
    pod's life.
    """
    for diagnosis in active_sessions(snapshot):
        pod, status = diagnosis.pod, diagnosis.session.status
        running = pod.desktop.state.running if pod and pod.desktop else None
        if pod is None or running is None or not running.started_at:
            continue
        newer = _changed_secrets(snapshot, diagnosis.namespace, pod, running.started_at)
        # The operator reports the same of the password's Secret, which the doctor may not read. It
        # has nothing else to say about a desktop that runs and whose conditions all hold.
        is_well = all(
            one.status == "True" and one.type not in WARNING_TYPES for one in status.conditions
        )
        if status.phase == Phase.RUNNING and status.message and is_well:
            newer.append(f"status.message: {status.message}")
        if newer:
            yield diagnosis.finding(
                "secret_newer",
                "A Secret was changed after the desktop had started with it.",
                evidence=[f"pod/{pod.metadata.name}: started {running.started_at}", *newer],
                remedy=Remedy.run(diagnosis.restart_command),
            )


def _changed_secrets(snapshot: Snapshot, namespace: str, pod: Pod, since: str) -> list[str]:
    changed = []
    for name in pod.spec.secrets:
        secret: Secret | None = snapshot.find("secrets", name, namespace)
        if secret and secret.changed and parse_time(secret.changed) > parse_time(since):
            changed.append(f"secret/{namespace}/{name}: written {secret.changed}")
    return changed


@check("vditemplates", "vdisessions")
def shared_memory_small(snapshot: Snapshot) -> Iterator[Finding]:
    """Templates in use whose /dev/shm is too small for a browser."""
    for name, template in _used_templates(
        snapshot, (one.template_name for one in active_sessions(snapshot))
    ):
        size = template.spec.shm_size
        if amount("memory", size) < _MIN_SHM_BYTES:
            yield make_finding(
                "shm_too_small",
                f"vditemplate/{name}",
                f"Template `{name}` sets /dev/shm to {size}: browsers crash with less than 64Mi.",
                evidence=[f"vditemplate/{name}: spec.shmSize: {size}"],
                remedy=Remedy(
                    "Raise it for desktops that start from now on.",
                    (merge_patch("vditemplate", name, {"spec": {"shmSize": "1Gi"}}),),
                ),
            )


@check("vditemplates", "vdisessions", "pods", reads=OF_SESSIONS)
def cpu_limits_low(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops with a CPU limit that is too low, and the object that sets it."""
    for diagnosis in active_sessions(snapshot):
        desktop = diagnosis.desktop
        if not isinstance(desktop, Desktop) or amount("cpu", desktop.cpu) >= _MIN_MILLICPU:
            continue
        where, source, command = diagnosis.set_limit("cpu", "1")
        ready = diagnosis.pod is not None and diagnosis.pod.ready
        yield diagnosis.finding(
            "cpu_limit_low",
            f"The desktop may use {desktop.cpu} of a CPU (limit from {source}): it is throttled"
            f"{'' if ready else ' and does not become ready'}.",
            object_name=where,
            evidence=[
                f"limit {desktop.cpu} from {where}",
                f"a desktop needs at least {_MIN_MILLICPU}m",
            ],
            remedy=Remedy(
                "Raise the limit, then restart the session.", (command, diagnosis.restart_command)
            ),
            severity=None if ready else Severity.ERROR,
        )


@check("vditemplates", "vdisessions", "nodes", "pods", reads=OF_SESSIONS)
def memory_limits_high(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops with a memory limit of more than twice the memory of the largest node, and the
    object that sets it.
    """
    largest = max(
        (
            amount("memory", node.status.allocatable.get("memory", "0"))
            for node in snapshot.nodes.values()
        ),
        default=0,
    )
    for diagnosis in active_sessions(snapshot):
        # Without a pod, the queue says what is too large.
        desktop = diagnosis.desktop if diagnosis.pod else None
        # Twice: the default of 4Gi is above the memory of a 4 GB machine, where desktops run well.
        if (
            not largest
            or not isinstance(desktop, Desktop)
            or amount("memory", desktop.memory) <= 2 * largest
        ):
            continue
        most = f"{largest >> 20}Mi"
        where, source, command = diagnosis.set_limit("memory", most)
        yield diagnosis.finding(
            "memory_limit_high",
            f"The desktop may use {desktop.memory} of memory (limit from {source}), and the largest"
            f" node has {most}.",
            object_name=where,
            evidence=[f"limit {desktop.memory} from {where}", f"largest node: {most} allocatable"],
            remedy=Remedy(
                "Lower the limit, then restart the session.", (command, diagnosis.restart_command)
            ),
        )


@check("vdisessions", "vditemplates", "pods", reads=OF_SESSIONS)
def graphics_in_software(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops with a GPU that render on the CPU, by the reason that they report."""
    for diagnosis in active_sessions(snapshot):
        graphics, pod = diagnosis.session.status.graphics, diagnosis.pod
        has_gpu = isinstance(diagnosis.desktop, Desktop) and diagnosis.desktop.gpu > 0
        if graphics is None or pod is None or not has_gpu or renders_on_gpu(graphics):
            continue
        why = graphics.message or "no reason"
        sentence = "See what the desktop tried, then restart it."
        command = f"{diagnosis.kubectl} logs {pod.metadata.name}"
        if graphics.reason == CAPABILITY_MISSING:
            sentence = (
                "Add `graphics` to NVIDIA_DRIVER_CAPABILITIES in `spec.env`, or remove it there."
                " Then restart."
            )
            command = f"kubectl edit vditemplate {diagnosis.template_name}"
        elif graphics.reason == NOT_ON_X11:
            sentence = (
                "Allow Wayland in the template, which this GPU needs. Then restart the desktop."
            )
            command = merge_patch(
                "vditemplate", diagnosis.template_name, {"spec": {"streaming": {"display": "Auto"}}}
            )
        elif graphics.reason == NO_GPU_DEVICE:
            why = "its pod has a share of one, but no GPU device"
            sentence = (
                "Set the RuntimeClass in `spec.placement`, then restart. A simulated GPU has no"
                " device."
            )
            command = f"kubectl edit vditemplate {diagnosis.template_name}"
        yield diagnosis.finding(
            "graphics_in_software",
            f"The desktop {diagnosis.name} requests a GPU but renders on the CPU ({why}).",
            evidence=[
                f"status.graphics: {graphics.renderer}, {graphics.reason or 'no reason'}:"
                f" {graphics.message}"
            ],
            remedy=Remedy(sentence, (command, diagnosis.restart_command)),
        )


@check("nodes", "vditemplates")
def encoders_missing(snapshot: Snapshot) -> Iterator[Finding]:
    """Nodes whose GPUs cannot encode, where templates give desktops a GPU."""
    templates = sorted(
        name
        for name, template in snapshot.templates.items()
        if template.spec.resources.default_gpu > 0
    )
    for name, node in snapshot.nodes.items() if templates else ():
        product = node.metadata.labels.get(PRODUCT_LABEL, "")
        if lacks_encoder(product):
            yield make_finding(
                "gpu_encoder_missing",
                f"node/{name}",
                f"The GPUs of node {name} ({product}) have no video encoder: desktops there encode"
                " on the CPU.",
                evidence=[f"node/{name}: {PRODUCT_LABEL}={product}"],
                remedy=Remedy(
                    "Choose nodes whose GPU has NVENC, in `spec.placement.nodeSelector` of the"
                    " template.",
                    (
                        f"kubectl get nodes --label-columns {PRODUCT_LABEL}",
                        f"kubectl edit vditemplate {templates[0]}",
                    ),
                ),
            )


@check("vditemplates", "deployments", "secrets@basicAuthSecret", reads=("vdisessions",))
def basic_auth_secrets_bad(snapshot: Snapshot) -> Iterator[Finding]:
    """Secrets in `basicAuthSecret` of templates that do not exist or cannot be used."""
    for (namespace, name), templates in secrets_to_sign_in(snapshot).items():
        secret: Secret | None = snapshot.find("secrets", name, namespace)
        if secret and not secret.problem:
            continue
        names = ", ".join(template.metadata.name for template in templates)
        if len(templates) == 1:
            subject = f"Template {names} names"
        else:
            subject = f"Templates {names} name"
        if secret:
            kind, problem = secret.type, secret.problem
        else:
            kind, problem = SECRET_TYPE, "does not exist"
        used = sum(
            session.metadata.namespace == namespace and session.spec.template in names.split(", ")
            for session in snapshot.all_sessions
        )
        yield make_finding(
            "basic_auth_secret_missing",
            f"secret/{namespace}/{name}",
            f"{subject} in basicAuthSecret the Secret {namespace}/{name}, which {problem}. The"
            " gateway cannot sign in: desktops respond with 503.",
            evidence=[
                *(
                    f"vditemplate/{one.metadata.name}: spec.basicAuthSecret.name: {name}"
                    for one in templates
                ),
                f"{used} sessions in namespace {namespace} use these templates",
            ],
            remedy=Remedy(
                "Write the image's user name and password into the files username and password,"
                " without a trailing newline. Then:",
                (
                    (
                        f"kubectl --namespace {namespace} create secret generic {name} --type"
                        f" {kind} --from-file {USERNAME_KEY} --from-file {PASSWORD_KEY}"
                        " --dry-run=client -o yaml | kubectl apply -f -"
                    ),
                ),
            ),
            severity=None if used else Severity.WARNING,
        )


CHECKS = (
    basic_auth_secrets_bad,
    logs_speak,
    encoders_obsolete,
    ports_wrong,
    secrets_newer,
    shared_memory_small,
    cpu_limits_low,
    memory_limits_high,
    graphics_in_software,
    encoders_missing,
)
