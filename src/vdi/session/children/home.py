"""The home volume: of a user, or of a user and a template, when it is retained; else the session's child."""

from typing import Any

from vdi.session.homes import Home
from vdi.session.identity import MANAGED_BY, TEMPLATE_ANNOTATION, USER_ANNOTATION, Identity


def build_home(*, identity: Identity, home: Home) -> dict[str, Any]:
    """The PersistentVolumeClaim. A retained one has no owner: the garbage collector would take it with that session."""
    if home.retain:
        annotations = {USER_ANNOTATION: identity.user}
        if not home.of_user:
            annotations[TEMPLATE_ANNOTATION] = identity.template
        metadata: dict[str, Any] = {
            "name": home.claim,
            "namespace": identity.namespace,
            "labels": dict(MANAGED_BY),
            "annotations": annotations,
        }
    else:
        metadata = identity.metadata(home.claim)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {
            "accessModes": [home.access_mode.value],
            "storageClassName": home.storage_class,
            "resources": {"requests": {"storage": home.size}},
        },
    }
