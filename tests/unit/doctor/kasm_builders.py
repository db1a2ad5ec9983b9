"""Kasm beside the cluster of `doctor_builders`, hand-made from what is known of a generation; and
ways to break it.
"""

from typing import Any

from unit.doctor.doctor_builders import (
    BEGAN,
    READY,
    Cluster,
    Object,
    meta_of,
    ready_condition,
    ready_status,
)
from vdi.kasm.generations.model import Component, Generation, InitContainer

# The operator runs in this namespace too.
PLACE = "kasm"
_NAMES = {"release": "kasm", "zone": "default", "version": "1-19-0"}
_PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "Job": "jobs"}


def named(pattern: str) -> str:
    """A real name for a pattern."""
    return pattern.format(**_NAMES)


class Kasm:
    """A healthy Kasm; what a test changes is what is wrong."""

    def __init__(self, cluster: Cluster, generation: Generation, version: str = "") -> None:
        self.cluster, self.generation = cluster, generation
        self.version = version or ".".join(map(str, generation.newest))
        for plural in ("statefulsets", "jobs"):
            cluster.objects.setdefault(plural, [])
        numbers = tuple(int(part) for part in self.version.split("."))
        self.components = {one.key: one for one in generation.present(numbers)}
        self.numbers = numbers
        for component in self.components.values():
            self._add(component)

    def _labels(self, component: Component) -> Object:
        chart = {
            "helm.sh/chart": f"{self.generation.chart}-{self.version}",
            "app.kubernetes.io/instance": "kasm",
        }
        return {key: named(value) for key, value in component.labels.items()} | chart

    def _meta(self, name: str, labels: Object) -> Object:
        return meta_of(PLACE, name, uid=f"uid-kasm-{name}", labels=dict(labels))

    def _add(self, component: Component) -> None:
        labels, name = self._labels(component), named(component.name)
        match = {key: named(value) for key, value in component.labels.items()}
        steps = [
            self._step(component, step)
            for step in component.steps(self.numbers)
            if self._is_there(step)
        ]
        containers = [
            {
                "name": named(container.name),
                "image": "kasmweb/x:1",
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                "ports": [
                    {"containerPort": port} for port in component.ports[:1]
                ],  # the charts do not declare all
            }
            for container in component.containers
        ] or [{"name": name, "image": "kasmweb/x:1"}]
        if component.key != "db-init":
            self._add_pod(component, f"{name}-0", labels, steps, containers)
        template = {"metadata": {"labels": labels}, "spec": {"containers": []}}
        spec: Object = {"selector": {"matchLabels": match}, "template": template}
        status: Object = {"conditions": [{"type": "Complete", "status": "True"}]}
        if component.kind != "Job":
            spec, status = spec | {"replicas": 1}, {"readyReplicas": 1}
        self.cluster.add(
            _PLURALS[component.kind], self._meta(name, labels), spec=spec, status=status
        )
        if component.service:
            service = named(component.service)
            ports = [{"port": port} for port in component.ports]
            self.cluster.add(
                "services", self._meta(service, labels), spec={"selector": match, "ports": ports}
            )
            self.cluster.add_slice(PLACE, service)

    @staticmethod
    def _is_there(step: InitContainer) -> bool:
        """With the values of a usual installation: no own authorities, no upgrade under way."""
        return step.only_when not in ("trustedCaBundle.enabled", "dbManagement.upgrade.enable")

    def _step(self, component: Component, step: InitContainer) -> Object:
        found: Object = {"name": named(step.name), "image": step.image or "kasmweb/x:1"}
        if not step.waits_for:
            return found
        host = named(self.components[step.waits_for].service)
        found["env"] = [
            {"name": "POSTGRES_HOST", "value": host},
            {"name": "POSTGRES_PASSWORD", "value": "hunter2"},
        ]
        line = f"while ! curl http://{host}:{step.port}{step.path} 2>/dev/null; do sleep 5; done"
        if step.waits_for == "db":
            line = 'while ! pg_isready -h "${POSTGRES_HOST}" -p 5432; do sleep 5; done'
            if "zones" in step.what:
                line = (
                    'PGPASSWORD=$POSTGRES_PASSWORD psql -h "${POSTGRES_HOST}" -c "select zone_id'
                    ' from zones"'
                )
        elif step.waits_for == "redis":
            line = f"until redis-cli -h {host} -p 6379 ping | grep PONG; do sleep 5; done"
        return found | {"command": ["/bin/sh", "-c"], "args": [line]}

    def _add_pod(
        self,
        component: Component,
        name: str,
        labels: Object,
        steps: list[Object],
        containers: list[Object],
    ) -> None:
        spec: Object = {
            "nodeName": "node-1",
            "initContainers": steps,
            "containers": containers,
            "volumes": [],
        }
        if component.key == "db":
            spec["volumes"] = [
                {"name": "data", "persistentVolumeClaim": {"claimName": "data-kasm-db"}}
            ]
            bound = {"storageClassName": "local-path", "volumeName": "pv-kasm"}
            meta = self._meta("data-kasm-db", labels)
            self.cluster.add("persistentvolumeclaims", meta, spec=bound, status={"phase": "Bound"})
        completed = {"terminated": {"exitCode": 0, "reason": "Completed"}}
        running = {"ready": True, "restartCount": 0, "state": {"running": {"startedAt": READY}}}
        status = ready_status() | {
            "initContainerStatuses": [{"name": step["name"], "state": completed} for step in steps],
            "containerStatuses": [
                {"name": container["name"], **running} for container in containers
            ],
        }
        self.cluster.add("pods", self._meta(name, labels), spec=spec, status=status)

    # What can be broken

    def find(self, plural: str, key: str) -> Object:
        """The object of a component."""
        component = self.components[key]
        name = named(component.service if plural == "services" else component.name)
        return self.cluster.one(plural, name)

    def workload(self, key: str) -> Object:
        """Its Deployment, StatefulSet or Job."""
        return self.find(_PLURALS[self.components[key].kind], key)

    def pod(self, key: str) -> Object:
        """Its pod."""
        return self.cluster.one("pods", f"{named(self.components[key].name)}-0")

    def pod_name(self, key: str) -> str:
        """As findings name it."""
        return f"pod/{PLACE}/{self.pod(key)['metadata']['name']}"

    def unready(self, key: str, **container: Any) -> Object:
        """Its pod runs, and is not ready; gives the status of its first container."""
        pod = self.pod(key)
        ready_condition(pod)["status"] = "False"
        found: Object = pod["status"]["containerStatuses"][0]
        found |= {"ready": False, **container}
        self.without_endpoints(key)
        return found

    def without_endpoints(self, key: str) -> None:
        """No one behind its Service is ready."""
        if self.components[key].service:
            slice_name = f"{named(self.components[key].service)}-x"
            self.cluster.one("endpointslices", slice_name)["endpoints"] = []

    def at_step(self, key: str, waits_for: str, **state: Any) -> Object:
        """Its pod is at the init container that waits for that component; gives that container's
        status.
        """
        pod = self.pod(key)
        steps = [
            self.components[key].step(container["name"])
            for container in pod["spec"]["initContainers"]
        ]
        place = next(
            place for place, step in enumerate(steps) if step and step.waits_for == waits_for
        )
        return self.at_place(key, place, **state)

    def at_place(self, key: str, place: int, **state: Any) -> Object:
        """Its pod is at that init container; without a state it runs."""
        pod = self.pod(key)
        self.unready(key, state={"waiting": {"reason": "PodInitializing"}})
        pod["status"]["phase"] = "Pending"
        steps: list[Object] = pod["status"]["initContainerStatuses"]
        for later in steps[place:]:
            later["state"] = {"waiting": {"reason": "PodInitializing"}}
        steps[place] |= state or {"state": {"running": {"startedAt": BEGAN}}}
        return steps[place]

    def add_wait(self, key: str, name: str) -> None:
        """Its pod has one more init container, as another version of the chart, or somebody's
        values, give it.
        """
        component, pod = self.components[key], self.pod(key)
        step = component.step(name)
        assert step is not None, f"{key} has no step {name} in any version"
        pod["spec"]["initContainers"].append(self._step(component, step))
        pod["status"]["initContainerStatuses"].append({"name": name})

    def off(self, key: str, message: str = "") -> None:
        """Its pod is on no node."""
        pod = self.pod(key)
        self.unready(key)
        del pod["spec"]["nodeName"]
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
        }
        pod["status"] = {
            "phase": "Pending",
            "conditions": [{**condition, "lastTransitionTime": BEGAN}],
        }

    def without_pod(self, key: str) -> None:
        """It has none."""
        self.without_endpoints(key)
        self.cluster.objects["pods"].remove(self.pod(key))

    def warn(self, kind: str, name: str, reason: str, note: str) -> None:
        """An Event about something here."""
        self.cluster.warn(kind, name, reason, note)
        self.cluster.objects["events"][-1]["metadata"]["namespace"] = PLACE

    def warn_pod(self, key: str, reason: str, note: str) -> None:
        self.warn("Pod", self.pod(key)["metadata"]["name"], reason, note)
