"""What the desktop itself says: its log and its settings."""

import re
from collections.abc import Iterator

from vdi.diagnosis.check import check
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.checks.registry import found
from vdi.doctor.objects.sessions import SessionDiagnosis, active, diagnose_sessions
from vdi.findings.model import Finding, Remedy
from vdi.session.streaming import generation, obsolete_encoders

_LIBRARY = re.compile(
    r"(?:(\S+\.so[.\d]*): cannot open shared object file|error while loading shared libraries: (\S+?):)"
)
_DENIED = re.compile(r"(?=.*permission denied).*?(/home/[^\s'’\":`]*)", re.IGNORECASE)
_PICTURE = re.compile(
    r"((?:cannot|can't|unable to) open display.*|failed to (?:start|initiali[sz]e)"
    " .*(?:captur|encod|pipeline|stream).*)",
    re.IGNORECASE,
)
_SAID: tuple[tuple[str, re.Pattern[str], str], ...] = (
    (
        "home_not_writable",
        _DENIED,
        "The desktop may not write to its home ({0}): the volume's folder belongs to root, or is 0700.",
    ),
    ("selkies_error", _PICTURE, "Selkies cannot make a picture: {0}."),
    ("selkies_error", re.compile(r"(address already in use.*)", re.IGNORECASE), "Selkies cannot listen: {0}."),
)


@check("vdisessions", "pods")
def logs_speak(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops whose log says why there is no picture, also of those that count as ready ("Waiting for stream")."""
    for diagnosis in active(diagnose_sessions(snapshot)):
        pod = diagnosis.pod
        lines = snapshot.logs.get(f"{diagnosis.namespace}/{pod.metadata.name}") if pod else None
        if not pod or not lines:
            continue
        if finding := _library(diagnosis, lines) or _known_words(diagnosis, lines):
            yield finding


def _library(diagnosis: SessionDiagnosis, lines: list[str]) -> Finding | None:
    assert diagnosis.pod is not None  # noqa: S101 - the caller has looked
    for line in lines:
        if match := _LIBRARY.search(line):
            library, template = match[1] or match[2], diagnosis.session.spec.template
            shown = "waits for a stream that never comes" if diagnosis.pod.ready else "does not start"
            return found(
                "library_missing",
                f"pod/{diagnosis.namespace}/{diagnosis.pod.metadata.name}",
                f"The image of {template!r} lacks the library {library}: the desktop {shown}.",
                evidence=[f"log: {line.strip()}"],
                remedy=Remedy(
                    f"Add the package with {library.split('/')[-1]} to the image, and name the new image.",
                    (f"kubectl edit vditemplate {template}",),
                ),
                related_objects=diagnosis.related_objects,
            )
    return None


def _known_words(diagnosis: SessionDiagnosis, lines: list[str]) -> Finding | None:
    assert diagnosis.pod is not None  # noqa: S101 - the caller has looked
    for line in lines:
        for code, pattern, words in _SAID:
            match = pattern.search(line)
            if not match:
                continue
            pod, namespace = diagnosis.pod.metadata.name, diagnosis.namespace
            return found(
                code,
                f"pod/{namespace}/{pod}",
                words.format(match[1].strip().rstrip(".")),
                evidence=[f"log: {line.strip()}"],
                remedy=Remedy(
                    "On the node, make the folder of the volume writable (chmod 0777); the list names it.",
                    ("kubectl get pv -o wide",),
                )
                if code == "home_not_writable"
                else Remedy.run(f"kubectl --namespace {namespace} logs {pod}"),
                related_objects=diagnosis.related_objects,
            )
    return None


@check("vditemplates", "vdisessions")
def encoders_obsolete(snapshot: Snapshot) -> Iterator[Finding]:
    """Templates in use that name encoders which Selkies 2 does not know."""
    used = {session.spec.template for session in snapshot.sessions}
    for name, template in sorted(snapshot.templates.items()):
        if name not in used or generation(template.spec) != "2":
            continue
        chosen = next((one.value for one in template.spec.env if one.name == "SELKIES_ENCODER"), "") or ""
        if old := obsolete_encoders(chosen):
            yield found(
                "encoder_obsolete",
                f"vditemplate/{name}",
                f"SELKIES_ENCODER names {', '.join(old)}, an encoder of Selkies 1: Selkies 2 passes over it and takes"
                " its own choice.",
                evidence=[f"spec.env SELKIES_ENCODER={chosen}"],
                remedy=Remedy(
                    "Set SELKIES_ENCODER=h264enc, which takes the GPU's encoder if there is one.",
                    (f"kubectl edit vditemplate {name}",),
                ),
            )


CHECKS = (logs_speak, encoders_obsolete)
