"""The pod of a check: the operator's own pod of such a desktop, with an empty home, that ends and is removed. Pure.

Beside the desktop it has a container of the same image, user and home, whose shell reports both: that needs no
`pods/exec`, and an image without a shell fails there alone.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, NamedTuple

from vdi.api.meta import ObjectMeta
from vdi.api.session import SessionPersistence, SessionSpec, VDISession
from vdi.api.template import TemplatePersistence, VDITemplate
from vdi.image_check.observation import Inside
from vdi.session.children.pod import build_spec
from vdi.session.children.secret import AGENT_TOKEN_DIGEST_KEY, PASSWORD_DIGEST_KEY, PASSWORD_KEY
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.effective import Blocked, Desktop, resolve
from vdi.session.homes import Home
from vdi.session.identity import MANAGED_BY

LABELS = {**MANAGED_BY, "app.kubernetes.io/name": "vdi-image-check"}
"""The first is how the network policies know a desktop. Without a session's label the operator passes the pod over."""
HOME_CONTAINER = "home"
_SETTINGS = ClusterSettings(edge_middleware="vdi-edge")
"""Behind a gateway, as the chart's default is. Which middleware it is makes no difference to the pod."""
AGENT_PORT = _SETTINGS.agent_port
_SPARE_SECONDS = 180
"""For what comes after the desktop is ready; then Kubernetes ends a pod that a killed command has left."""
_SCRIPT = """\
file=${1:-$HOME}/.vdi-image-check
if echo > "$file" && rm -f "$file"; then writable=true; else writable=false; fi
echo "$(id -u) $(id -g) $writable $HOME" > /dev/termination-log
"""


class Tokens(NamedTuple):
    """What opens the desktop of one check, which no person ever uses."""

    master: str
    agent: str


def resolve_desktop(name: str, namespace: str, template: VDITemplate) -> Desktop | Blocked:
    """What a session of this template would run, without a home of its own."""
    session = VDISession(
        metadata=ObjectMeta(name=name, namespace=namespace),
        spec=SessionSpec(
            user="image-check@vdi.invalid",
            template=template.metadata.name,
            persistence=SessionPersistence(enabled=False),
        ),
    )
    return resolve(session, template, _SETTINGS)


def build_check_pod(
    name: str, namespace: str, template: VDITemplate, desktop: Desktop, tokens: Tokens, seconds: float
) -> dict[str, Any]:
    """The pod. `seconds`: how long the desktop may take until it is ready."""
    home = template.spec.persistence
    if home.enabled:
        desktop = replace(desktop, home=_a_home(home))
    spec = build_spec(desktop, name, AGENT_PORT)
    (container,) = spec["containers"]
    container["env"] = [_with_value(variable, name, tokens) for variable in container["env"]]
    spec["volumes"] = [
        {"name": "home", "emptyDir": {}} if volume["name"] == "home" else volume for volume in spec["volumes"]
    ]
    mounts = [mount for mount in container["volumeMounts"] if mount["name"] == "home"]
    spec["containers"].append(
        {
            "name": HOME_CONTAINER,
            "image": desktop.image,
            "imagePullPolicy": container["imagePullPolicy"],
            "command": ["sh", "-c", _SCRIPT, "sh", home.mount_path if home.enabled else ""],
            "resources": {
                "requests": {"cpu": "10m", "memory": "16Mi"},
                "limits": {"cpu": "500m", "memory": "64Mi"},
            },
            "securityContext": copy.deepcopy(container["securityContext"]),
            "volumeMounts": mounts,
        }
    )
    # An end is observed, not repeated; a pod that a killed command leaves behind ends by itself.
    spec |= {"restartPolicy": "Never", "activeDeadlineSeconds": int(seconds) + _SPARE_SECONDS}
    added = desktop.pod_template.metadata
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": {**added.labels, **LABELS},
        "annotations": dict(added.annotations),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _a_home(persistence: TemplatePersistence) -> Home:
    """What the operator builds the pod around; an empty folder takes its place."""
    return Home(
        claim="",
        size=persistence.size,
        storage_class=persistence.storage_class,
        access_mode=persistence.access_mode,
        mount_path=persistence.mount_path,
        retain=False,
        of_user=False,
        shared=False,
    )


def _with_value(variable: dict[str, Any], secret: str, tokens: Tokens) -> dict[str, Any]:
    """In place of a Secret of the session there are values: they open this desktop alone, for the time of a check."""
    reference: Mapping[str, Any] = variable.get("valueFrom", {}).get("secretKeyRef", {})
    if reference.get("name") != secret:
        return variable
    values = {
        PASSWORD_KEY: tokens.master,
        PASSWORD_DIGEST_KEY: sha256(tokens.master.encode()).hexdigest(),
        AGENT_TOKEN_DIGEST_KEY: sha256(tokens.agent.encode()).hexdigest(),
    }
    return {"name": variable["name"], "value": values[reference["key"]]}


def read_inside(message: str) -> Inside | None:
    """What the second container has reported; None where it is something else."""
    parts = message.strip().split(" ", 3)
    if len(parts) < 3 or parts[2] not in ("true", "false"):
        return None
    return Inside(parts[0], parts[1], parts[3] if len(parts) > 3 else "", parts[2] == "true")
