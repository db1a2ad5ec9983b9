"""What the chart makes, small enough to be read: one line per object, and below it what matters of it.

tests/unit/chart/golden has it for each of the chart's values files. `python tests/unit/chart/generate.py HELM` writes
it, tests/cluster/test_chart_values_files.py holds it equal to what helm renders.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from unit.chart.render import Object, pod_specs

FOLDER = Path(__file__).parent / "golden"


def summary(values_file: str, objects: list[Object]) -> str:
    """The page of one values file."""
    lines = [f"# charts/vdi with {values_file}: {len(objects)} objects. Made by tests/unit/chart/generate.py"]
    for made in sorted(objects, key=identity):
        lines.append(identity(made))
        lines += [f"    {line}" for line in details(made)]
    return "\n".join(lines) + "\n"


def identity(made: Object) -> str:
    where = made["metadata"].get("namespace")
    return f"{made['kind']} {where + '/' if where else ''}{made['metadata']['name']}"


def details(made: Object) -> Iterator[str]:
    """What of an object a reader of a change wants to see."""
    for many, spec in pod_specs(made):
        yield from pod_lines(many, spec)
    shows: dict[str, Callable[[Object], Iterable[str]]] = {
        "Certificate": certificate,
        "ConfigMap": keys,
        "CronJob": lambda one: [f"at {one['spec']['schedule']}"],
        "IngressRoute": route,
        "Namespace": lambda one: [f"{key}={value}" for key, value in labels(one) if "pod-security" in key],
        "NetworkPolicy": policy,
        "PersistentVolumeClaim": lambda one: claim(one["spec"]),
        "PodDisruptionBudget": lambda one: [f"{k} {v}" for k, v in one["spec"].items() if k != "selector"],
        "PrometheusRule": lambda one: [f"{len(g['rules'])} rules in {g['name']}" for g in one["spec"]["groups"]],
        "Secret": keys,
        "Service": service,
        "StatefulSet": lambda one: [
            line for each in one["spec"]["volumeClaimTemplates"] for line in claim(each["spec"])
        ],
        "VDITemplate": lambda one: [one["spec"]["image"], amounts(one["spec"].get("resources", {}))],
    }
    if made["kind"] in shows:
        yield from shows[made["kind"]](made)
    elif "rules" in made:
        yield f"{len(made['rules'])} rules"


def labels(made: Object) -> list[tuple[str, str]]:
    return list(made["metadata"].get("labels", {}).items())


def amounts(given: Object) -> str:
    return " ".join(f"{name}={amount}" for name, amount in given.items())


def pod_lines(many: int, spec: Object) -> Iterator[str]:
    marks = [name for name in ("hostNetwork", "hostPID") if spec.get(name)]
    marks += [f"priority {spec['priorityClassName']}"] if "priorityClassName" in spec else []
    yield ", ".join([f"{many} pod{'s' if many > 1 else ''}", *marks])
    for part in ("initContainers", "containers"):
        for one in spec.get(part, []):
            given = one.get("resources", {})
            yield f"{one['name']}: {one['image']}"
            yield f"  requests {amounts(given.get('requests', {}))}; limits {amounts(given.get('limits', {}))}"


def keys(made: Object) -> list[str]:
    found = sorted({**made.get("data", {}), **made.get("stringData", {})})
    return [", ".join(found)] if found else []


def claim(spec: Object) -> list[str]:
    return [f"volume {spec['resources']['requests']['storage']} of {spec.get('storageClassName', 'the default class')}"]


def service(made: Object) -> list[str]:
    spec = made["spec"]
    return [f"{one['port']} {one.get('protocol', 'TCP')} ({one.get('name', '')})" for one in spec.get("ports", [])]


def route(made: Object) -> list[str]:
    tls = made["spec"].get("tls") or "Traefik's default certificate"
    return [*(each["match"] for each in made["spec"]["routes"]), f"TLS {tls}"]


def certificate(made: Object) -> list[str]:
    spec = made["spec"]
    return [f"{', '.join(spec['dnsNames'])} by {spec['issuerRef']['name']} in Secret {spec['secretName']}"]


def policy(made: Object) -> Iterator[str]:
    spec = made["spec"]
    for way, peers in (("ingress", "from"), ("egress", "to")):
        if way.capitalize() in spec.get("policyTypes", ["Ingress"]):
            rules = [
                f"{', '.join(str(one.get('port', 'any')) for one in rule.get('ports', [])) or 'any port'} {peers}"
                f" {len(rule[peers]) if rule.get(peers) else 'any'}"
                for rule in spec.get(way) or []
            ]
            yield f"{way}: {'; '.join(rules) or 'none'}"
