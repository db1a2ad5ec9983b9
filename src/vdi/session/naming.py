"""Names, labels, annotations and owner of every object that belongs to a session or a pool. Pure.

A session's name may have 253 characters and dots; a Service's name and a host label have 63 and
none. A name that fits is used as it is; any other becomes a readable prefix and a hash. A name that
only looks like such a derived one is hashed too, so that two different sessions never share a
child. Hosts carry a keyed hash of the user as well: a session name is free again when its session
ends, and the next session of that name may belong to another person.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vdi.api.meta import API_VERSION, ObjectMeta
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.session.cluster_settings import ClusterSettings

# Labels and annotations. They are the API of running pods, so they are never renamed.

# On the session: JSON of the person who has taken over from agents, or of the agent that waits for
# one.
DRIVER = "vdi.kasm.io/driver"
# On Service and IngressRoute, which are repaired: hash of what the operator last wrote there.
APPLIED_HASH = "vdi.kasm.io/applied-hash"
# On the session: why its recording is not stored now, in the gateway's words; without it, it is.
RECORDING_REFUSED = "vdi.kasm.io/recording-refused"
FINALIZER = "vdi.kasm.io/session-cleanup"
# On the Pod, "true" while the PodDisruptionBudget keeps evictions away from it, else "false".
HOLD = "vdi.kasm.io/hold"
# On the IngressRoute: its host. On a ConfigMap: the host label that it records.
HOST = "vdi.kasm.io/host"
# On the Pod: why it has no user namespace, as a clause.
ISOLATION = "vdi.kasm.io/isolation"
# The volumes of a pod with a user namespace, which its node may not be able to mount there.
STORAGE = "vdi.kasm.io/storage"
# On the Pod: `status.failures.time` when it was created. Another time in the status: this pod has
# been given up.
LAST_FAILURE = "vdi.kasm.io/last-failure"
# On everything that the operator creates.
MANAGED_BY = {"app.kubernetes.io/managed-by": "vdi-operator"}
# Label (`derive_base` of the pool's name) and annotation (its name) of what a pool has created.
# They stay when a session takes the desktop.
POOL = "vdi.kasm.io/pool"
# On the Pod: the protocol Web; without it, Selkies.
PROTOCOL = "vdi.kasm.io/protocol"
# On the session: a new value restarts the desktop. On the Pod: the value that it was created with.
RESTARTED_AT = "vdi.kasm.io/restartedAt"
# On the Pod: the start of the run, where that was not the pod's creation.
RUN_STARTED = "vdi.kasm.io/run-started"
# On the Pod: its `recording.mode`; without it, Off.
RECORDING = "vdi.kasm.io/recording"
# On the Pod: the scheme HTTPS of its port; without it, HTTP.
SCHEME = "vdi.kasm.io/scheme"
# On all children; the value is `derive_base` of the session's name.
SESSION_LABEL = "vdi.kasm.io/session"
# On a template or pool: only the operator of this namespace pulls the image in advance, fills the
# pool (there) and writes the status. Without the label every operator does, in the first of its
# namespaces.
SESSIONS_NAMESPACE = "vdi.kasm.io/sessions-namespace"
TEMPLATE_ANNOTATION = "vdi.kasm.io/template"
# On the Pod, for policies that choose by template; the value is `derive_base` of the template's
# name.
TEMPLATE_LABEL = TEMPLATE_ANNOTATION
# On the Pod: generation of the template that it was created from.
TEMPLATE_REVISION = "vdi.kasm.io/template-revision"
USER_ANNOTATION = "vdi.kasm.io/user"
_OPERATORS_KEYS = frozenset(
    {"app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/managed-by"}
)

# Longest DNS label (RFC 1035), Service name and label value.
LABEL_LIMIT = 63

_HASH_LENGTH = 12
_HOST_HASH_LENGTH = 8
# Names that each cache keeps: with two homes for each session, those of 2,000 sessions.
_KEPT = 4096
_LONGEST_SUFFIX = len("-home")
BASE_LIMIT = LABEL_LIMIT - _LONGEST_SUFFIX

_PLAIN = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LOOKS_DERIVED = re.compile(rf"-[2-7][a-z2-7]{{{_HASH_LENGTH - 1}}}$")
_RESERVATION = "vdi-host-"
# The end of every label of `host_label`, which no `spec.hostname` may have.
KEYED_LABEL = rf"-[2-7][a-z2-7]{{{_HOST_HASH_LENGTH - 1}}}$"
_NOT_ALLOWED = re.compile(r"[^a-z0-9]+")
_LOOKS_KEYED = re.compile(KEYED_LABEL)
# Start of `xn--` labels, which browsers show in other letters, and of all that IDNA keeps for such
# uses.
_LOOKS_ENCODED = re.compile(r"..--")
_SMALL = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def normal_name(text: str) -> str:
    """The name of a user or group: ASCII letters in lower case, nothing else changed.

    Unicode's own folding makes two names one (the Kelvin sign becomes a k), and whoever may choose
    the other one could borrow the first.
    """
    return text.strip().translate(_SMALL)


@lru_cache(maxsize=_KEPT)  # asked for each child and index, at each look at a session
def derive_base(session_name: str) -> str:
    """The stem of all names of a session's children: at most 58 characters, a DNS label that begins
    with a letter.
    """
    plain = _PLAIN.fullmatch(session_name) and not _LOOKS_DERIVED.search(session_name)
    if plain and len(session_name) <= BASE_LIMIT:
        return session_name
    return _shorten(session_name, _digest(session_name), BASE_LIMIT)


def pod_name(session_name: str) -> str:
    """The name of the Pod; Service and IngressRoute share it."""
    return derive_base(session_name)


def service_name(session_name: str) -> str:
    """The name of the Service; Pod and IngressRoute share it."""
    return derive_base(session_name)


def route_name(session_name: str) -> str:
    """The name of the IngressRoute; Pod and Service share it."""
    return derive_base(session_name)


def secret_name(session_name: str) -> str:
    """The name of the Secret with the desktop's password (key `password`)."""
    return derive_base(session_name) + "-auth"


def pool_pod_name(pool_name: str, token: str) -> str:
    """The Pod's name of one of a pool's desktops, unique by `token`; it looks derived, so no
    session has it.
    """
    return _shorten(pool_name, _digest(f"{pool_name}\0{token}"), BASE_LIMIT)


def pool_secret_name(pod: str) -> str:
    return pod + "-auth"


@lru_cache(
    maxsize=_KEPT
)  # an index asks for the name of a session's home at each change of the session
def home_claim_name(*, session_name: str, user: str, template: str, retain: bool) -> str:
    """The PersistentVolumeClaim of the home: the user's and template's own when it is retained,
    else the session's.
    """
    if not retain:
        return derive_base(session_name) + "-home"
    stem = f"home-{user.split('@', maxsplit=1)[0]}-{template}"
    return _shorten(stem, _digest(f"{user}\0{template}"), LABEL_LIMIT)


@lru_cache(maxsize=_KEPT)
def user_home_claim_name(user: str) -> str:
    """The PersistentVolumeClaim of the home that a user has for all templates with
    `persistence.scope: User`.

    No template has the empty name, so it never is the claim of a user and a template.
    """
    return _shorten(f"home-{user.split('@', maxsplit=1)[0]}", _digest(f"{user}\0"), LABEL_LIMIT)


@lru_cache(maxsize=_KEPT)  # asked at each look at a session
def host_label(*, namespace: str, session_name: str, user: str, key: bytes) -> str:
    """The first label of the host of a session that chooses none: always the same for the same
    person and name.

    Without the key no one can find a session name that leads to the host of another person. The
    label is at most 63 characters long, begins with a letter and has no `--`, so browsers never
    show it as an international name.
    """
    text = f"{namespace}\0{session_name}\0{user}"  # neither of the first two can hold a NUL
    raw = hmac.digest(key, text.encode(), "sha256")
    return _shorten(session_name, _base32(raw, _HOST_HASH_LENGTH), LABEL_LIMIT)


def is_label_of(label: str, session_name: str) -> bool:
    """Whether this may be the host label of a session of this name: without the key, its hash is
    not checked.
    """
    return label in (session_name, _shorten(session_name, label[-_HOST_HASH_LENGTH:], LABEL_LIMIT))


def reservation_name(label: str) -> str:
    """The name of the ConfigMap that records who owns a host label."""
    return _RESERVATION + label


def reserved_label(name: str) -> str:
    """The label that the ConfigMap of this name records."""
    return name.removeprefix(_RESERVATION)


def _shorten(text: str, digest: str, limit: int) -> str:
    """A readable prefix of `text` and the digest; begins with a letter, at most `limit`
    characters.
    """
    prefix = _NOT_ALLOWED.sub("-", text.lower()).strip("-")
    if not prefix[:1].isalpha():
        prefix = f"d-{prefix}".rstrip("-")
    prefix = prefix[: limit - len(digest) - 1].rstrip("-")
    return f"{prefix}-{digest}"


def _digest(text: str) -> str:
    # 57 bits of SHA-256: a collision of two names would need hundreds of millions of sessions.
    return _base32(hashlib.sha256(text.encode()).digest(), _HASH_LENGTH)


def _base32(raw: bytes, length: int) -> str:
    """Begins with a digit, as no word does, so that few plain names look derived."""
    return str(2 + raw[0] % 6) + base64.b32encode(raw[1:]).decode().lower()[: length - 1]


def is_operators_key(key: str) -> bool:
    """Whether this label or annotation belongs to the operator, or is matched by the release's
    network policies.
    """
    return key.startswith("vdi.kasm.io/") or key in _OPERATORS_KEYS


def assigned_namespace(meta: ObjectMeta, namespaces: Sequence[str]) -> str | None:
    """The namespace in which this operator works for that template or pool; None: another operator
    does.
    """
    chosen = meta.labels.get(SESSIONS_NAMESPACE, namespaces[0])
    return chosen if chosen in namespaces else None


def owner_reference(
    kind: str, name: str, uid: str, api_version: str = API_VERSION
) -> dict[str, Any]:
    """The ownerReference by which the garbage collector deletes a child together with its owner."""
    return {"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": True}


@dataclass(frozen=True, slots=True)
class Identity:
    """Facts of a session that its children carry."""

    namespace: str
    name: str
    uid: str
    user: str
    template: str

    @classmethod
    def of(cls, session: VDISession) -> "Identity":
        meta, spec = session.metadata, session.spec
        return cls(
            namespace=meta.namespace,
            name=meta.name,
            uid=meta.uid,
            user=spec.user,
            template=spec.template,
        )

    @property
    def labels(self) -> dict[str, str]:
        """Labels of a child that dies with the session."""
        return {**MANAGED_BY, SESSION_LABEL: derive_base(self.name)}

    def metadata(self, name: str, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
        """`metadata` of a child that dies with the session."""
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels,
            "annotations": {
                USER_ANNOTATION: self.user,
                TEMPLATE_ANNOTATION: self.template,
                **(annotations or {}),
            },
            "ownerReferences": [owner_reference("VDISession", self.name, self.uid)],
        }


@dataclass(frozen=True, slots=True)
class PoolIdentity:
    """Facts of a pool that its desktops carry."""

    # Of its desktops; the pool itself is cluster-scoped.
    namespace: str
    name: str
    uid: str
    template: str

    @classmethod
    def of(cls, pool: VDIPool, namespace: str) -> "PoolIdentity":
        return cls(
            namespace=namespace,
            name=pool.metadata.name,
            uid=pool.metadata.uid,
            template=pool.spec.template,
        )

    def metadata(self, name: str, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
        """`metadata` of what dies with the pool, unless a session takes it."""
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": {**MANAGED_BY, POOL: derive_base(self.name)},
            "annotations": {
                POOL: self.name,
                TEMPLATE_ANNOTATION: self.template,
                **(annotations or {}),
            },
            "ownerReferences": [owner_reference("VDIPool", self.name, self.uid)],
        }


def has_label(session: VDISession, label: str) -> bool:
    """Whether the session's address, which the operator alone writes, begins with this label."""
    return session.status.url.removeprefix("https://").partition(".")[0] == label


def refuse_hostname(session: VDISession, settings: ClusterSettings) -> str | None:
    """The reason why the session may not have the `spec.hostname` that it requests, or None."""
    label = session.spec.hostname
    if label is None:
        return None
    if settings.edge_middleware is not None and label == settings.portal_label:
        return (
            f"{settings.host(label)} is the portal's own address. Choose another hostname for this"
            " session"
        )
    if _LOOKS_KEYED.search(label):
        return (
            f"{label!r} ends like an address that the operator generates, such as alice-5tq2mzk4;"
            " choose another"
        )
    if _LOOKS_ENCODED.match(label):
        return (
            f"{label!r} has -- as its third and fourth characters, like an encoded name (xn--...);"
            " choose another"
        )
    return None


def build_reservation(namespace: str, label: str, user: str) -> dict[str, Any]:
    """The ConfigMap that records who owns a label. It has no owner reference: it outlives the
    user's sessions.
    """
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": reservation_name(label),
            "namespace": namespace,
            "labels": {**MANAGED_BY, HOST: label},
        },
        "data": {"user": user},
    }
