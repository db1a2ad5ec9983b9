"""Facts about a cluster and a planned release, before anything is changed.

`collect` reads them, `preflight` judges them. Below them: what the release's objects need that is
not there, and the plan of an install. Pure.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from vdi.findings.model import Remedy
from vdi.helm.arguments import Place
from vdi.helm.releases import Revision, deployed
from vdi.helm.run import Helm
from vdi.release.chart import Chart, image_reference
from vdi.release.diff import Object
from vdi.settings import Settings, read_settings
from vdi.snapshot.model import Snapshot

POD_KINDS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"})
ENFORCE = "pod-security.kubernetes.io/enforce"
# StorageClass of homes whose template names none (docs/api.md).
_TEMPLATE_CLASS = "local-path"


class Refusal(NamedTuple):
    """An object that the API server would not take."""

    object: str
    # `Forbidden`, `Invalid`, ...
    reason: str
    message: str


class ForeignObject(NamedTuple):
    """An object that the release would make, and that is there already without being the
    release's.
    """

    kind: str
    # Its namespace, or nothing.
    where: str
    name: str
    # `NAMESPACE/RELEASE` that it belongs to; empty: to none.
    owner: str


class Pods(NamedTuple):
    """The pods of one workload of the release."""

    workload: str
    namespace: str
    spec: Object


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A cluster, and the objects that a release would make on it."""

    helm: Helm
    chart: Chart
    # Address of the API server.
    server: str
    # Its version.
    kubernetes: str
    release: str
    place: Place
    # The newest first.
    revisions: tuple[Revision, ...] = ()
    # Objects of the release.
    objects: tuple[Object, ...] = ()
    # Objects that Helm makes beside them: the pod of `helm test`.
    hooks: tuple[Object, ...] = ()
    # The cluster: its nodes, StorageClasses, Deployments and DaemonSets, the CRDs of the names that
    # the chart's have, the TLS Secrets that the release names. What could not be read is named by
    # the plural, of one object or namespace with its name behind it.
    snapshot: Snapshot
    # Namespaces of the release, of the sessions, and others that objects name.
    namespaces: tuple[str, ...] = ()
    # (apiVersion, kind) of the release's objects, that the API server does not know.
    unknown: frozenset[tuple[str, str]] = frozenset()
    # Rights that our account lacks, as kubectl auth can-i takes them.
    lacking: tuple[str, ...] = ()
    # Names of the images on its nodes.
    node_images: frozenset[str] = frozenset()
    # Whether the API server knows traefik.io/v1alpha1.
    traefik_known: bool = True
    # By namespace and name, the keys of Secrets; a namespace that is not in it could not be read.
    secrets: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    # Host names that were looked up here -> why they lead nowhere; empty: they do.
    names: Mapping[str, str] = field(default_factory=dict)
    # Refusals of a dry run on the API server.
    refusals: tuple[Refusal, ...] = ()
    # Objects that Helm would refuse to take into the release.
    foreign: tuple[ForeignObject, ...] = ()

    @property
    def namespace(self) -> str:
        return self.place.namespace

    @cached_property
    def new_namespaces(self) -> list[str]:
        """Namespaces that do not exist yet."""
        there = {each.metadata.name for each in self.snapshot.objects.namespaces}
        unknown = self.snapshot.unreadable_kinds
        absent = [name for name in self.namespaces if name not in there]
        return [name for name in absent if f"namespaces {name}" not in unknown]

    @cached_property
    def before(self) -> Revision | None:
        """The revision that is in place."""
        return deployed(self.revisions)

    @cached_property
    def pods(self) -> list[Pods]:
        """Of all workloads of the release."""
        return list(pods_of(self.objects, self.namespace))

    @cached_property
    def settings(self) -> Settings:
        """The settings of the operator: domain, entry point, namespace of the sessions, ..."""
        return settings_of(self.objects)


def pods_of(objects: Iterable[Object], namespace: str = "") -> Iterator[Pods]:
    """Pods of the workloads among these objects. `namespace`: that of objects that name none."""
    for obj in objects:
        if obj["kind"] in POD_KINDS:
            meta, spec = obj["metadata"], obj["spec"]
            if obj["kind"] == "CronJob":
                spec = spec["jobTemplate"]["spec"]
            name = f"{obj['kind'].lower()}/{meta['name']}"
            yield Pods(name, meta.get("namespace") or namespace, spec["template"]["spec"])


def variables_of(pods: Iterable[Pods], name: str, required: str = "") -> dict[str, str] | None:
    """Environment of the first container of this name that has the required variable; None without
    one.
    """
    for workload in pods:
        for container in workload.spec["containers"]:
            variables = {
                variable["name"]: str(variable.get("value", ""))
                for variable in container.get("env", ())
            }
            if container["name"] == name and (not required or required in variables):
                return variables
    return None


def settings_of(objects: Iterable[Object]) -> Settings:
    """The settings of the operator among these objects; the defaults without an operator."""
    variables = variables_of(pods_of(objects), "operator", "VDI_NAMESPACE")
    if variables:
        return read_settings(variables)
    return Settings()


def missing_classes(facts: Facts) -> Iterator[tuple[str, str]]:
    """(what needs it, StorageClass; empty: a default one). Where no class could be listed nothing
    is known.
    """
    if "storageclasses" in facts.snapshot.unreadable_kinds:
        return
    there = {each.metadata.name for each in facts.snapshot.objects.storageclasses}
    if any(each.is_default for each in facts.snapshot.objects.storageclasses):
        there.add("")
    for what, storage_class in _classes(facts):
        if storage_class not in there:
            yield what, storage_class


def _classes(facts: Facts) -> Iterator[tuple[str, str]]:
    for obj in facts.objects:
        kind, name, spec = obj["kind"], obj["metadata"]["name"], obj.get("spec", {})
        if kind == "PersistentVolumeClaim":
            yield f"The volume {name}", spec.get("storageClassName") or ""
        elif kind == "StatefulSet":
            for claim in spec.get("volumeClaimTemplates", ()):
                yield f"The volume of {name}", claim["spec"].get("storageClassName") or ""
        elif kind == "VDITemplate":
            home = spec.get("persistence", {})
            if home.get("enabled", True):  # as the API server will have it
                yield f"The template {name} (homes)", home.get("storageClass") or _TEMPLATE_CLASS


def unmatched_selectors(facts: Facts) -> Iterator[tuple[str, str]]:
    """(workload, its nodeSelector as KEY=VALUE ...) for pods that no node's labels allow."""
    for pods in facts.pods:
        selector: Mapping[str, str] = pods.spec.get("nodeSelector", {})
        nodes = facts.snapshot.objects.nodes
        if nodes and not any(selector.items() <= node.metadata.labels.items() for node in nodes):
            yield (
                pods.workload,
                " ".join(f"{key}={value}" for key, value in sorted(selector.items())),
            )


def missing_keys(facts: Facts) -> Iterator[tuple[str, Remedy]]:
    """(sentence, remedy) for Secrets that pods of the release need and that are neither there nor
    made.
    """
    made = set()
    for obj in facts.objects:
        if obj["kind"] == "Secret":
            made.add((obj["metadata"].get("namespace") or facts.namespace, obj["metadata"]["name"]))
    # Each Secret is reported once, though several workloads may need it.
    said = set(made)
    for pods in facts.pods:
        there = facts.secrets.get(pods.namespace)
        if there is None and pods.namespace not in facts.new_namespaces:
            continue  # they may not be read
        for name, key in _references(pods.spec):
            if (pods.namespace, name) in said:
                continue
            said.add((pods.namespace, name))
            keys = there.get(name) if there else None
            put = "Put its values into the folder files."
            if key:
                put = f"Put the value of {key} into a file with that name."
            create = (
                f"kubectl -n {pods.namespace} create secret generic {name}"
                f" --from-file={key or 'files'}"
            )
            remedy, secret = Remedy(put, (create,)), f"The Secret {pods.namespace}/{name}"
            if keys is None:
                yield f"{secret} does not exist, but {pods.workload} needs it.", remedy
            elif key and key not in keys:
                has = ", ".join(sorted(keys)) or "none"
                yield f"{secret} has no key {key!r}, only: {has}.", remedy


def _references(pod: Object) -> Iterator[tuple[str, str]]:
    """(Secret, key) that the pod cannot start without; an empty key: the whole Secret."""
    references: list[Object | None] = list(pod.get("imagePullSecrets", ()))
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        values = [variable.get("valueFrom", {}) for variable in container.get("env", ())]
        references += [value.get("secretKeyRef") for value in values]
        references += [source.get("secretRef") for source in container.get("envFrom", ())]
    for volume in pod.get("volumes", ()):
        sources = volume.get("projected", {}).get("sources", ())
        references += [source.get("secret") for source in (volume, *sources)]
    for reference in references:
        if reference and not reference.get("optional"):
            yield reference.get("secretName") or reference["name"], reference.get("key", "")


def refused_host_network(facts: Facts) -> Iterator[tuple[str, Remedy]]:
    """(sentence, remedy) for pods on their node's network in a namespace that forbids it."""
    for pods in facts.pods:
        namespace = facts.snapshot.find("namespaces", pods.namespace)
        level = ""
        if namespace:
            level = namespace.metadata.labels.get(ENFORCE, "")
        if pods.spec.get("hostNetwork") and level in ("baseline", "restricted"):
            message = (
                f"{pods.workload} uses its node's network, and the namespace {pods.namespace}"
                f" enforces {level!r}."
            )
            yield (
                message,
                Remedy(
                    "Choose another namespace, or allow it in this one.",
                    (f"kubectl label namespace {pods.namespace} {ENFORCE}=privileged --overwrite",),
                ),
            )


def unpullable(facts: Facts) -> Iterator[tuple[str, str, bool]]:
    """(image, what is wrong with it, whether that is certain), as far as it can be known from
    here.
    """
    there = facts.node_images
    for image, policy in images_of(facts):
        if there & {image, image_reference(image)}:
            continue
        local = image.split("/")[0].split(":")[0] in ("localhost", "127.0.0.1")
        if local and there:
            yield (
                image,
                "is on no node, and no registry has it: `localhost` is each node itself.",
                False,
            )
        elif policy == "Never" and there:
            yield image, "is on no node, and may not be pulled (pullPolicy: Never).", True


def images_of(facts: Facts) -> list[tuple[str, str]]:
    """(image, pull policy; empty: not known) of everything in the release that names an image.

    Beside the containers of pods: templates, image volumes, hooks, and what pods get as a variable
    or a file, from which they make further pods.
    """
    policies: dict[str, str] = {}
    for obj in (*facts.objects, *facts.hooks):
        for image, policy in _images_in(obj):
            policies[image] = policy or policies.get(image, "")
    return sorted(policies.items())


def _images_in(node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, list):
        for item in node:
            yield from _images_in(item)
    if not isinstance(node, Mapping):
        return
    match node:
        case {"image": str(image)} if image:
            yield image, node.get("imagePullPolicy") or ""
        case {"image": {"reference": str(image)} as volume} if image:
            yield image, volume.get("pullPolicy") or ""
        case {"name": str(name), "value": str(image)} if name.endswith("_IMAGE") and image:
            yield image, ""
        case {"kind": "ConfigMap", "data": Mapping() as files}:
            for name, text in files.items():
                if name.endswith(".json"):
                    yield from _images_in(_decoded(text))
        case _:
            pass
    for value in node.values():
        yield from _images_in(value)


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None  # not JSON after all: whoever reads it finds no image there either


def plan_install(facts: Facts) -> dict[str, Any]:
    """An install before it is made, for people who confirm it and for `-o json`."""
    cluster = facts.settings.cluster
    gateway = variables_of(facts.pods, "gateway")
    admins: list[str] = []
    for variable in ("VDI_ADMIN_USERS", "VDI_ADMIN_GROUPS"):
        admins += (gateway or {}).get(variable, "").split(",")
    return {
        "release": facts.release,
        "namespace": facts.namespace,
        "server": facts.server,
        "newNamespaces": facts.new_namespaces,
        "sessionsNamespace": facts.settings.namespaces[0],
        "sessionsNamespaces": facts.settings.namespaces,
        "portal": "" if gateway is None else cluster.url(cluster.host(cluster.portal_label)),
        "desktops": cluster.url(cluster.host("NAME")),
        "certificate": _certificate_source(facts),
        "administrators": list(filter(None, admins)),
        "images": [image for image, _ in images_of(facts)],
    }


def _certificate_source(facts: Facts) -> str:
    cluster = facts.settings.cluster
    issuers = set()
    for obj in facts.objects:
        if obj["kind"] == "Certificate":
            issuers.add(obj["spec"]["issuerRef"]["name"])
    if issuers:
        return (
            f"Secret {cluster.tls_secret}, made by cert-manager's issuer"
            f" {', '.join(sorted(issuers))}"
        )
    if cluster.tls_secret:
        return f"Secret {cluster.tls_secret}"
    if cluster.cert_resolver:
        return f"Traefik's certificate resolver {cluster.cert_resolver}"
    return "Traefik's default certificate"
