"""The pod that reads or writes a home while no desktop does, and what runs in it. Pure.

It has the user, the placement and the image of the desktops that use the home: the image is on the node, and the
volume can be mounted there. It passes the Pod Security Standard `restricted`; the namespace's default-deny policy is
its network.
"""

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from vdi.api.meta import ObjectMeta
from vdi.api.template import HomeScope, TemplateSpec, VDITemplate
from vdi.home_copy.errors import CopyRefusedError
from vdi.session.children.restricted import restricted_container, restricted_pod

CONTAINER = "copy"
LABELS = {"app.kubernetes.io/name": "vdi-home-copy"}
MOUNT = "/mnt/home"
TARGET_MOUNT = "/mnt/target"
_DEADLINE_SECONDS = 24 * 3600
"""A pod that a killed command left behind, and that nothing else ended, ends then."""
_HELD = "/tmp/held"  # noqa: S108 -- in the pod's own emptyDir
_WAIT = f"mkfifo {_HELD} && {{ (sleep 120; : > {_HELD}) & cat {_HELD}; sleep 2; }}"
"""The pod ends when the command of `held` ends, also by a lost connection; or when none begins in 120 s. Two seconds
later, so that the kubelet can deliver the command's exit status."""
_GNU = (
    "tar --version 2>/dev/null | grep -q GNU ||"
    ' { echo "the image has no GNU tar: name another one with --image" >&2; exit 90; }'
)
_PYTHON = (
    "python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null ||"
    ' { echo "the image has no python3, 3.8 or later: name another one with --image" >&2; exit 90; }'
)
_CONTENT = "find . -mindepth 1 -maxdepth 1 ! -name lost+found"
"""Not the top folder: it belongs to root and keeps its mode."""
PACK = f"{_CONTENT} -print0 | tar --create --gzip --format=posix --sparse --xattrs --null --files-from=- --file=-"
"""Status 1: a file changed while it was read, as happens below a running desktop."""
_NOT_OURS = "--anchored --exclude=./lost+found --exclude=lost+found --no-recursion --exclude=."
"""`tar .` archives these too. Both may be root's, and tar ends with an error when it cannot set their modes and times;
`--no-overwrite-dir` sets a mode all the same."""
_EMPTY = (
    # Folders without the right to write, as an interrupted import may leave them, cannot be emptied.
    "find . -path ./lost+found -prune -o -type d ! -perm -700 -exec chmod u+rwx {} \\; &&"
    f" {_CONTENT} -exec rm -rf {{}} +"
)


def pod_name(claim: str) -> str:
    """The name of the pod that copies this home: one at a time, since two pods cannot have one name."""
    return f"copy-{claim}"


def choose_template(
    template: str, templates: Sequence[VDITemplate], home: str, *, has_image: bool = False
) -> VDITemplate:
    """The template whose desktops use a home; of a home of all templates, the first one. Raises CopyRefusedError.

    `has_image`: another image is named, so that a template that no longer exists is not needed.
    """
    for candidate in sorted(templates, key=lambda candidate: candidate.metadata.name):
        of_user = not template and candidate.spec.persistence.scope is HomeScope.USER
        if of_user or candidate.metadata.name == template:
            return candidate
    if has_image:
        return VDITemplate(metadata=ObjectMeta(name=template), spec=TemplateSpec(image=""))
    missing = f"its template {template!r} does not exist" if template else "no template has the scope User"
    raise CopyRefusedError(
        f"the image that reads the home {home!r} is unknown: {missing}. Name one with GNU tar that runs as user "
        "1000: --image IMAGE"
    )


def build_copy_pod(
    claim: str,
    template: VDITemplate,
    *,
    image: str | None = None,
    read_only: bool = False,
    nodes: Collection[str] = (),
    target: str = "",
) -> Mapping[str, Any]:
    """The pod that mounts the claim and waits for one command.

    `nodes`: where the volume is mounted already, or may be created; empty: wherever the placement allows. `target`: a
    second claim, which the first one is copied into.
    """
    spec = template.spec
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _DEADLINE_SECONDS,
        "terminationGracePeriodSeconds": 1,
        "nodeSelector": dict(spec.placement.node_selector),
        "tolerations": [msgspec.to_builtins(toleration) for toleration in spec.placement.tolerations],
        "imagePullSecrets": [msgspec.to_builtins(secret) for secret in spec.image_pull_secrets],
        **restricted_pod(spec.run_as_user, owns_volumes=True),
        "containers": [
            {
                "name": CONTAINER,
                "image": image or spec.image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", _WAIT],
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "512Mi"}},
                "securityContext": restricted_container(is_read_only=True),
                "volumeMounts": [
                    {"name": "home", "mountPath": MOUNT, "readOnly": read_only},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- the pod's own
                ],
            }
        ],
        "volumes": [
            {"name": "home", "persistentVolumeClaim": {"claimName": claim}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
        ],
    }
    if target:
        pod["volumes"].append({"name": "target", "persistentVolumeClaim": {"claimName": target}})
        pod["containers"][0]["volumeMounts"].append({"name": "target", "mountPath": TARGET_MOUNT})
    if nodes:
        # `matchFields` takes one name; of several terms, one must hold.
        terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]} for node in nodes]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        pod["affinity"] = {"nodeAffinity": required}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod_name(claim), "labels": dict(LABELS)},
        "spec": pod,
    }


def held(script: str, needs: str = _GNU) -> str:
    """The script as the command that the pod waits for: the pod ends with it. `needs`: ends it on a wrong image."""
    return (
        f"until [ -p {_HELD} ]; do sleep 0.1; done; exec 3> {_HELD} && {{ {needs}; }} && cd {MOUNT} && {{ {script}; }}"
    )


def unpack_script(*, gzip: bool) -> str:
    """What fills a home from the archive on its stdin, after it has deleted what an interrupted import has left."""
    return (
        f"{_EMPTY} && tar --extract {'--gzip ' if gzip else ''}--preserve-permissions --delay-directory-restore"
        f" --xattrs {_NOT_OURS} --file=- && sync"
    )


def migrate_script(into: str) -> str:
    """What copies the home into the target; the program comes on its stdin."""
    folder = f" --into {shlex.quote(into)}" if into else ""
    return held(f"python3 - {MOUNT} {TARGET_MOUNT}{folder}", _PYTHON)
