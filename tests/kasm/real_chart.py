"""A rendered chart against the known data of its generation: one sentence for each difference.

For the stand-ins in a test, and for the real charts where somebody has them:
tests/kasm/against-real.
"""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from vdi.cluster.units import parse_quantity
from vdi.kasm.generations import of_chart, of_label, of_workloads, parse_version
from vdi.kasm.generations.model import (
    Component,
    Generation,
    InitContainer,
    Resources,
    Version,
    matches,
)
from vdi.kasm.preflight.needs import Preset, takes_of
from vdi.kasm.values.render import (
    PROFILES,
    BadOptionsError,
    Ingress,
    InstallOptions,
    entries,
    nested,
    render,
    value_at,
)
from vdi.snapshot.objects.workloads import Container
from vdi.snapshot.waits import parse_wait

Object = dict[str, Any]
RELEASE = "kasm"
_WORKLOADS = ("Deployment", "StatefulSet", "Job")


class ChartRefusedError(Exception):
    """Raised when helm does not render the chart with these values; the message is helm's."""


@dataclass(frozen=True)
class Chart:
    """A chart folder, and the helm that renders it."""

    helm: Path
    folder: Path
    generation: Generation
    version: Version
    defaults: Mapping[str, Any]

    def objects(self, values: Mapping[str, Any]) -> list[Object]:
        """Raises ChartRefusedError."""
        words = [str(self.helm), "template", RELEASE, str(self.folder), "--values", "-"]
        done = subprocess.run(
            words,
            input=yaml.safe_dump(values),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise ChartRefusedError(done.stderr.strip())
        return [each for each in yaml.safe_load_all(done.stdout) if each]


def open_chart(helm: Path, folder: Path) -> Chart:
    """Raises ValueError for a chart that is not one of Kasm's."""
    meta = yaml.safe_load((folder / "Chart.yaml").read_text())
    generation = of_chart(meta["name"], meta["version"])
    if generation is None:
        raise ValueError(f"chart {meta['name']} {meta['version']} is not one of Kasm's")
    defaults = yaml.safe_load((folder / "values.yaml").read_text()) or {}
    return Chart(helm, folder, generation, parse_version(meta["version"]), defaults)


def profiles(chart: Chart) -> Iterator[tuple[str, InstallOptions]]:
    """Every file that vdi renders for this chart: each size and profile, each way in."""
    for profile in PROFILES:
        for ingress in Ingress:
            for size in ("small", "medium", "large") if not profile.is_cut else ("small",):
                options = InstallOptions(
                    chart.generation,
                    "kasm.example.com",
                    version=chart.version,
                    size=size,
                    profile=profile,
                    ingress=ingress,
                    tls_secret="kasm-tls",
                )
                try:
                    render(options)
                except BadOptionsError:
                    continue
                yield f"profile {profile.name}, size {size}, ingress {ingress}", options


def differences_of_profile(
    chart: Chart, options: InstallOptions, *, is_stand_in: bool = False
) -> list[str]:
    """Differences from the known data when the chart is rendered with these answers. A stand-in has
    own requests.
    """
    values = nested(entries(options))
    try:
        objects = chart.objects(values)
    except ChartRefusedError as error:
        return [f"helm refuses the values: {error}"]
    preset = Preset(chart.generation, chart.version, values, RELEASE)
    found = [*_shape(chart, preset, objects)]
    if not is_stand_in:
        found += _amounts(chart, preset, objects)
    return found


def unknown_keys(chart: Chart) -> list[str]:
    """Values that the chart has and the schema here does not, and the other way round."""
    theirs = list(_paths(chart.defaults, ""))
    found = [
        f"value {path} is in the chart and not known"
        for path in theirs
        if not chart.generation.keys.read_ever(path)
    ]
    for path in chart.generation.keys.paths:
        parent = path.rpartition(".")[0]
        is_missing = chart.generation.keys.read(path, chart.version) and not _has(
            chart.defaults, path
        )
        # The missing block has been named.
        if is_missing and (not parent or _has(chart.defaults, parent)):
            found.append(f"value {path} is known and not in the chart's values.yaml")
    return found


def _paths(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _has(values: Mapping[str, Any], path: str) -> bool:
    node: Any = values
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return isinstance(node, Mapping) and not node  # a free-form block
        node = node[key]
    return True


def _is_on(chart: Chart, preset: Preset, switch: str) -> bool:
    """By the values, else by the chart's own."""
    path = switch.removeprefix("!")
    given = value_at(preset.values, path)
    found = value_at(chart.defaults, path) if given is None else given
    return not found if switch.startswith("!") else bool(found)


def _shape(chart: Chart, preset: Preset, objects: list[Object]) -> Iterator[str]:
    """Names, kinds, labels, init containers, Services."""
    workloads = [each for each in objects if each["kind"] in _WORKLOADS]
    names = [workload["metadata"]["name"] for workload in workloads]
    if of_workloads(names) is not chart.generation:
        yield f"the generation is not recognised by the workloads: {', '.join(names)}"
    seen: set[str] = set()
    for workload in workloads:
        labels = workload["spec"]["template"]["metadata"].get("labels") or {}
        label = labels.get("helm.sh/chart", "")
        if of_label(label) is not chart.generation:
            yield f"{workload['metadata']['name']}: label helm.sh/chart {label!r} is not recognised"
        component = _component(chart, labels)
        if component is None:
            yield f"{workload['kind']} {workload['metadata']['name']} is no component that is known"
            continue
        seen.add(component.key)
        yield from _workload(chart, preset, component, workload)
    for component in chart.generation.present(chart.version):
        is_expected = not component.switch or _is_on(chart, preset, component.switch)
        if is_expected and component.key not in seen:
            yield f"{component.key}: no workload"
        elif not is_expected and component.key in seen:
            yield f"{component.key}: is there, and {component.switch} is off"
        if is_expected and component.service:
            yield from _service(component, objects)


def _component(chart: Chart, labels: Mapping[str, str]) -> Component | None:
    return next(
        (each for each in chart.generation.present(chart.version) if each.owns(labels)), None
    )


def _workload(
    chart: Chart, preset: Preset, component: Component, workload: Object
) -> Iterator[str]:
    name, spec = workload["metadata"]["name"], workload["spec"]["template"]["spec"]
    real_name = preset.real_name(component.name)
    if (workload["kind"], name) != (component.kind, real_name):
        yield f"{component.key}: {workload['kind']} {name}, known as {component.kind} {real_name}"
    containers = [container["name"] for container in spec["containers"]]
    expected = [preset.real_name(container.name) for container in preset.containers(component)]
    if expected and containers != expected:
        yield f"{component.key}: containers {containers}, known as {expected}"
    steps = {
        init_container["name"]: init_container
        for init_container in spec.get("initContainers") or ()
    }
    present = [
        step
        for step in component.steps(chart.version)
        if not step.only_when or _is_on(chart, preset, step.only_when)
    ]
    names = [preset.real_name(step.name) for step in present]
    if list(steps) != names:
        yield f"{component.key}: init containers {list(steps)}, known as {names}"
    for step in present:
        if made := steps.get(preset.real_name(step.name)):
            yield from _step(chart, preset, component, step, made)
    if component.claim_gib and chart.generation.paths.get("storage_size") is None:
        sizes = [
            volume_claim_template["spec"]["resources"]["requests"]["storage"]
            for volume_claim_template in workload["spec"]["volumeClaimTemplates"]
        ]
        if sizes not in ([f"{component.claim_gib}Gi"], ["1Gi"]):
            yield f"{component.key}: volumes of {sizes}, known as {component.claim_gib}Gi"


def _step(
    chart: Chart, preset: Preset, component: Component, step: InitContainer, made: Mapping[str, Any]
) -> Iterator[str]:
    where = f"{component.key}: {made['name']}"
    is_root = (made.get("securityContext") or {}).get("runAsUser") == 0
    if is_root != step.as_root:
        yield f"{where} {'runs' if is_root else 'does not run'} as root"
    if not step.waits_for:
        return
    target = parse_wait(msgspec.convert(made, Container).waits_for)
    awaited = chart.generation.component(step.waits_for, chart.version)
    if target is None or awaited is None:
        yield f"{where}: what it waits for cannot be read from its command line"
        return
    host = preset.real_name(awaited.service)
    if (target.host, target.port) != (host, step.port):
        yield f"{where} waits for {target.host}:{target.port}, known as {host}:{step.port}"
    if step.path and target.path != step.path:
        yield f"{where} asks {target.path}, known as {step.path}"


def _service(component: Component, objects: list[Object]) -> Iterator[str]:
    found = [
        each
        for each in objects
        if each["kind"] == "Service" and matches(component.service, each["metadata"]["name"])
    ]
    if not found:
        yield f"{component.key}: no Service {component.service}"
        return
    ports = {port["port"] for each in found for port in each["spec"]["ports"]}
    if not set(component.ports) <= ports:
        yield (
            f"{component.key}: Service with ports {sorted(ports)}, known are"
            f" {sorted(component.ports)}"
        )


def _amounts(chart: Chart, preset: Preset, objects: list[Object]) -> Iterator[str]:
    """Requests, limits, replicas, and their sum as the preflight reckons it."""
    for workload in objects:
        if workload["kind"] not in ("Deployment", "StatefulSet"):
            continue
        spec = workload["spec"]["template"]["spec"]
        component = _component(chart, workload["spec"]["template"]["metadata"].get("labels") or {})
        if component is None:
            continue
        count = preset.count(component)
        if workload["spec"].get("replicas") != count:
            yield f"{component.key}: {workload['spec'].get('replicas')} replicas, known are {count}"
        by_name = {container["name"]: container for container in spec["containers"]}
        for container in preset.containers(component):
            made = by_name.get(preset.real_name(container.name))
            if made and value_at(preset.values, container.resources_path) is None:
                yield from _resources(
                    f"{component.key}: {made['name']}", made, container.presets[preset.size]
                )
        for made in spec.get("initContainers") or ():
            step = component.step(made["name"])
            if step and step.image and made["image"] != step.image:
                yield (
                    f"{component.key}: {made['name']} has image {made['image']}, known as"
                    f" {step.image}"
                )
    workloads = [each["spec"] for each in objects if each["kind"] in ("Deployment", "StatefulSet")]
    for resource in ("cpu", "memory"):
        rendered = sum(
            one["replicas"] * takes_of(one["template"]["spec"]).get(resource, 0)
            for one in workloads
        )
        if rendered != preset.needs().total(resource):
            yield (
                f"{resource}: {rendered} are requested, {preset.needs().total(resource)} are"
                " reckoned"
            )


def _resources(where: str, container: Mapping[str, Any], preset: Resources) -> Iterator[str]:
    for kind, name, expected in (
        ("requests", "cpu", preset.cpu),
        ("requests", "memory", preset.memory),
        ("limits", "cpu", preset.cpu_limit),
        ("limits", "memory", preset.memory_limit),
    ):
        made = str(((container.get("resources") or {}).get(kind) or {}).get(name, ""))
        if (parse_quantity(made) if made else None) != (
            parse_quantity(expected) if expected else None
        ):
            yield f"{where}: {kind}.{name} {made or 'none'}, known as {expected or 'none'}"
