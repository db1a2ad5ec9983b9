"""An installed Kasm on paper, of any generation: whole as it is, and each thing can be broken."""

import copy
from typing import Any

import msgspec

from unit.kasm.preflight_site import GENERATIONS, a_snapshot
from vdi.findings.model import Finding, Severity
from vdi.kasm.generations.model import Component, Generation
from vdi.kasm.installation import Installation
from vdi.kasm.validate import Answer, Release, Validation
from vdi.kasm.validate import validate as validate_installation

Object = dict[str, Any]
HOST = "kasm.example.com"
MARKS = {"meta.helm.sh/release-name": "kasm", "meta.helm.sh/release-namespace": "kasm"}


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """The objects of a namespace by plural, those that may not be read, and what is seen from
    outside.
    """

    objects: dict[str, list[Object]]
    unread: frozenset[str] = frozenset()
    releases: tuple[Release, ...] = ()
    hostname: str = ""
    web: Answer | None = None


def an_installation(found: Site) -> Installation:
    objects = {
        plural: [{**one, "metadata": {"namespace": "kasm", **one["metadata"]}} for one in raw]
        for plural, raw in found.objects.items()
    }
    return Installation(a_snapshot(objects, found.unread), "kasm")


def validate(found: Site) -> list[Finding]:
    kasm = an_installation(found)
    return validate_installation(Validation(kasm, found.releases, found.hostname, found.web))


def real(pattern: str) -> str:
    return pattern.format(release="kasm", zone="default", version="1-19-0")


def a_kasm(letter: str = "C") -> Site:
    """Everything is there and well; the db-init Job has been deleted after its time."""
    generation = GENERATIONS[letter]
    objects: dict[str, list[Object]] = {plural: [] for plural in ("jobs", "ingressroutes")}
    for component in generation.present():
        if component.kind != "Job":
            for plural, made in _parts(generation, component).items():
                objects.setdefault(plural, []).append(made)
    proxy = generation.component("proxy")
    assert proxy is not None
    objects["ingresses"] = [an_ingress(real(proxy.service))]
    return Site(
        objects=objects,
        releases=(Release("kasm", 1, "superseded"), Release("kasm", 2, "deployed")),
        hostname=HOST,
        web=Answer(200),
    )


def _parts(generation: Generation, component: Component) -> dict[str, Object]:
    name = real(component.name)
    labels = {key: real(value) for key, value in component.labels.items()}
    version = ".".join(str(number) for number in generation.newest)
    meta = {"name": name, "namespace": "kasm", "annotations": dict(MARKS), "generation": 1}
    plural = {"Deployment": "deployments", "StatefulSet": "statefulsets"}[component.kind]
    claim = f"data-{name}-0" if component.claim_gib else ""
    found: dict[str, Object] = {
        plural: {
            "metadata": {
                **meta,
                "labels": {**labels, "helm.sh/chart": f"{generation.chart}-{version}"},
            },
            "spec": {"replicas": 1},
            "status": {"observedGeneration": 1, "readyReplicas": 1, "updatedReplicas": 1},
        },
        "pods": {
            "metadata": {"name": f"{name}-0", "namespace": "kasm", "labels": labels},
            "spec": {
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
                if claim
                else []
            },
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        },
        "services": {
            "metadata": {
                "name": real(component.service),
                "namespace": "kasm",
                "annotations": dict(MARKS),
            },
            "spec": {"selector": labels, "ports": [{"port": port} for port in component.ports]},
        },
        "endpointslices": {
            "metadata": {
                "name": f"{name}-1",
                "labels": {"kubernetes.io/service-name": real(component.service)},
            },
            "endpoints": [{"conditions": {"ready": True}}],
        },
    }
    if claim:
        found["persistentvolumeclaims"] = {
            "metadata": {"name": claim},
            "status": {"phase": "Bound"},
        }
    return found


def an_ingress(service: str, *, address: str = "192.0.2.10") -> Object:
    path = {"path": "/", "backend": {"service": {"name": service, "port": {"number": 8080}}}}
    return {
        "metadata": {"name": "kasm-ingress", "namespace": "kasm"},
        "spec": {
            "rules": [{"host": HOST, "http": {"paths": [path]}}],
            "tls": [{"secretName": "kasm-tls"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": address}] if address else []}},
    }


def broken(found: Site, **objects: list[Object]) -> Site:
    """With these objects in the place of those."""
    return msgspec.structs.replace(found, objects={**copy.deepcopy(found.objects), **objects})


def dropped(found: Site, plural: str, part: str) -> Site:
    """Without the objects whose name has this part."""
    return broken(
        found,
        **{plural: [one for one in found.objects[plural] if part not in one["metadata"]["name"]]},
    )


def edited(found: Site, plural: str, part: str, **fields: Any) -> Site:
    """With top-level fields of the objects whose name has this part merged."""
    copied = copy.deepcopy(found.objects[plural])
    hit = [one for one in copied if part in one["metadata"]["name"]]
    assert hit, f"no {plural} like {part}"
    for one in hit:
        for name, value in fields.items():
            one[name] = {**one.get(name, {}), **value}
    return broken(found, **{plural: copied})


def not_passing(found: Site) -> list[str]:
    """Checks that do not pass."""
    return [line.code for line in validate(found) if line.severity is not Severity.OK]


def line_of(check: str, found: Site) -> Finding:
    return next(line for line in validate(found) if line.code == check)
