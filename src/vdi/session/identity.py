"""What every child carries: namespace, labels, owner. Used by all builders and by who looks for the children."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vdi.api.meta import API_VERSION, ObjectMeta
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.session.naming import derive_base

FINALIZER = "vdi.kasm.io/session-cleanup"
SESSION_LABEL = "vdi.kasm.io/session"
"""Label of all children; its value is `naming.derive_base(session name)`."""
POOL = "vdi.kasm.io/pool"
"""Label (its value is `naming.derive_base(pool name)`) and annotation (the name itself) of what a pool has made. They
stay when a session takes the desktop."""
MANAGED_BY = {"app.kubernetes.io/managed-by": "vdi-operator"}
"""Label of everything that the operator makes."""
USER_ANNOTATION = "vdi.kasm.io/user"
TEMPLATE_ANNOTATION = "vdi.kasm.io/template"
TEMPLATE_LABEL = TEMPLATE_ANNOTATION
"""Label of a desktop's pod, for policies that choose by template; its value is `naming.derive_base(template name)`."""
_OPERATORS_KEYS = frozenset({"app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/managed-by"})


def is_operators_key(key: str) -> bool:
    """Whether a label or annotation of a pod is set by the operator, or chosen by the network policies of a release."""
    return key.startswith("vdi.kasm.io/") or key in _OPERATORS_KEYS


SESSIONS_NAMESPACE = "vdi.kasm.io/sessions-namespace"
"""Label of a template or pool: only the operator of this namespace pulls the image in advance, fills the pool (there)
and writes the status. Without the label every operator does, in the first of its namespaces."""


def assigned_namespace(meta: ObjectMeta, namespaces: Sequence[str]) -> str | None:
    """Where the operator of these namespaces works for that template or pool; None: another operator does."""
    chosen = meta.labels.get(SESSIONS_NAMESPACE, namespaces[0])
    return chosen if chosen in namespaces else None


@dataclass(frozen=True, slots=True)
class Identity:
    """The session, as far as its children know it."""

    namespace: str
    name: str
    uid: str
    user: str
    template: str

    @classmethod
    def of(cls, session: VDISession) -> "Identity":
        """The identity of that session."""
        meta, spec = session.metadata, session.spec
        return cls(namespace=meta.namespace, name=meta.name, uid=meta.uid, user=spec.user, template=spec.template)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of a child that dies with the session."""
        return {**MANAGED_BY, SESSION_LABEL: derive_base(self.name)}

    @property
    def owner(self) -> dict[str, Any]:
        """The ownerReference by which the garbage collector finds the child."""
        return {
            "apiVersion": API_VERSION,
            "kind": "VDISession",
            "name": self.name,
            "uid": self.uid,
            "controller": True,
        }

    def metadata(self, name: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
        """`metadata` of a child that dies with the session."""
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels,
            "annotations": {USER_ANNOTATION: self.user, TEMPLATE_ANNOTATION: self.template, **(annotations or {})},
            "ownerReferences": [self.owner],
        }


@dataclass(frozen=True, slots=True)
class PoolIdentity:
    """The pool, as far as its desktops know it."""

    namespace: str
    """Where its desktops live; the pool itself is in none."""
    name: str
    uid: str
    template: str

    @classmethod
    def of(cls, pool: VDIPool, namespace: str) -> "PoolIdentity":
        """The identity of that pool."""
        return cls(namespace=namespace, name=pool.metadata.name, uid=pool.metadata.uid, template=pool.spec.template)

    def metadata(self, name: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
        """`metadata` of what dies with the pool, unless a session takes it."""
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": {**MANAGED_BY, POOL: derive_base(self.name)},
            "annotations": {POOL: self.name, TEMPLATE_ANNOTATION: self.template, **(annotations or {})},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": "VDIPool",
                    "name": self.name,
                    "uid": self.uid,
                    "controller": True,
                }
            ],
        }
