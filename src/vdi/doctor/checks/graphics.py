"""What draws and what encodes: desktops with a GPU that do without it."""

from collections.abc import Iterator

from vdi.api.session import GraphicsStatus
from vdi.diagnosis.check import check
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.checks.registry import found
from vdi.doctor.objects.sessions import SessionDiagnosis, active, diagnose_sessions
from vdi.findings.model import Finding, Remedy
from vdi.gpu.products import PRODUCT_LABEL, lacks_encoder
from vdi.session.effective import Desktop
from vdi.session.graphics import CAPABILITY_MISSING, DRIVER_NOT_LOADABLE, NOT_ON_X11, renders_on_gpu


@check("vdisessions", "vditemplates", "pods")
def graphics_in_software(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops with a GPU that draw on the CPU, by the reason that they report."""
    for diagnosis in active(diagnose_sessions(snapshot)):
        graphics = diagnosis.session.status.graphics
        has_gpu = isinstance(diagnosis.desktop, Desktop) and diagnosis.desktop.gpu > 0
        if graphics is None or diagnosis.pod is None or not has_gpu or renders_on_gpu(graphics):
            continue
        yield _finding(diagnosis, diagnosis.pod.metadata.name, graphics)


def _finding(diagnosis: SessionDiagnosis, pod: str, graphics: GraphicsStatus) -> Finding:
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
    return found(
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
        yield found(
            "gpu_encoder_missing",
            f"node/{name}",
            f"The GPUs of node {name} ({product}) have no video encoder: desktops there encode on the CPU.",
            evidence=[f"node/{name}: {PRODUCT_LABEL}={product}"],
            remedy=Remedy(
                "Choose nodes whose GPU has NVENC, in `spec.placement.nodeSelector` of the template.",
                (f"kubectl get nodes --label-columns {PRODUCT_LABEL}", f"kubectl edit vditemplate {templates[0]}"),
            ),
        )


CHECKS = (graphics_in_software, encoders_missing)
