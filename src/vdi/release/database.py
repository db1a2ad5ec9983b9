"""The gateway's database when a release goes back: an older gateway refuses one that a newer gateway has upgraded.

The newer image undoes its revisions in a Job, while no gateway runs. Not in a gateway that runs: with PostgreSQL the
newer pods serve until the older ones are ready, and each that restarts meanwhile would upgrade the database again.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

import msgspec

from vdi.helm.watch import View, Watch, stop_telling
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import NotFound
from vdi.kube.resource import DEPLOYMENTS, JOBS, PODS
from vdi.kube.transport import Client
from vdi.release.errors import RefusedError

Object = Mapping[str, Any]
REVISION = "vdi.kasm.io/database-revision"
"""Annotation of the gateway's Deployment: the newest revision of the database that its chart's gateway knows."""
REVISIONS: Mapping[str, tuple[str, ...]] = {"0001": ()}
"""The revisions of the database, the oldest first, and the columns that each adds. A test holds them to the code."""
_FIRST = "0001"
"""Of charts without the annotation."""
_DEPLOYMENT = "vdi-gateway"
_CONTAINER = "gateway"
_ENDED = ("Succeeded", "Failed")
_POLL_SECONDS = 0.3
_KEPT_SECONDS = 600
"""How long a Job that a killed command left behind is kept."""


class Stages(View, Protocol):
    """Where stages are shown."""

    def stage(self, text: str, seconds: float) -> None:
        """One stage is over."""


class DowngradeError(Exception):
    """Raised when the database could not be brought back; the message says why."""


@dataclass(frozen=True, slots=True)
class Downgrade:
    """What happens to the database before an older gateway starts."""

    gateway: Object
    """The Deployment in place: its image knows how."""
    revision: str
    """Where the database goes back to."""
    current: str
    """The revision that the gateway in place knows."""
    lost: tuple[str, ...]
    """`TABLE.COLUMN`."""

    @property
    def words(self) -> str:
        """For people who confirm it."""
        return (
            f"the database goes back from revision {self.current} to {self.revision} and loses the columns "
            f"{', '.join(self.lost)} with their data; the gateway is stopped during that time"
        )


def plan_downgrade(gateway: Object | None, target: Iterable[Object]) -> Downgrade | None:
    """What the database needs when this Deployment is replaced by that of `target`; None: nothing.

    Raises RefusedError when the gateway in place is newer than this program.
    """
    after = find_gateway(target)
    if gateway is None or after is None or _container(gateway)["image"] == _container(after)["image"]:
        return None
    current, revision = _revision(gateway), _revision(after)
    known = list(REVISIONS)
    if current not in known:
        raise RefusedError(
            f"the database of the deployed gateway is at revision {current}, which this vdi does not know: it is "
            f"older than the release. Allowed: {', '.join(known)}. Use the vdi of the deployed release: uv tool "
            "upgrade vdi-kubernetes"
        )
    if revision not in known or known.index(revision) >= known.index(current):
        return None  # a newer gateway upgrades the database by itself
    undone = known[known.index(revision) + 1 : known.index(current) + 1]
    return Downgrade(gateway, revision, current, tuple(column for name in undone for column in REVISIONS[name]))


def upgrades_database(after: Iterable[Object], before: Iterable[Object]) -> bool:
    """Whether the gateway of `before` would refuse the database that the one of `after` has upgraded."""
    try:
        return plan_downgrade(find_gateway(after), before) is not None
    except RefusedError:  # a chart that is newer than this program, which could not undo it
        return False


def find_gateway(objects: Iterable[Object]) -> Object | None:
    """The gateway's Deployment among a release's objects."""
    return next((o for o in objects if (o["kind"], o["metadata"]["name"]) == ("Deployment", _DEPLOYMENT)), None)


async def find_downgrade(client: Client, namespace: str, target: Iterable[Object]) -> Downgrade | None:
    """`plan_downgrade` for the Deployment on the cluster; None also while none of its pods has started."""
    try:
        gateway = await client.get(DEPLOYMENTS, _DEPLOYMENT, namespace=namespace, into=dict[str, Any])
    except NotFound:
        return None
    found = plan_downgrade(gateway, target)
    if found is None:
        return None
    image = _container(gateway)["image"]
    pods = [pod for pod in await _pods(client, gateway) if _images(pod).get(_CONTAINER) == image]
    # An image that cannot be pulled has upgraded nothing, and no Job could run it.
    return None if pods and not any(map(_has_started, pods)) else found


@asynccontextmanager
async def downgraded(client: Client, view: Stages, seconds: float, downgrade: Downgrade | None) -> AsyncIterator[None]:
    """The database as the older gateway knows it. Where the body does not start a gateway, the former one starts again.

    Raises DowngradeError, KubeError.
    """
    if downgrade is None:
        yield
        return
    try:
        await _stop_gateway(client, view, seconds, downgrade.gateway)
        await _run_job(client, view, seconds, downgrade)
        yield
    except BaseException:
        await _start_gateway(client, downgrade.gateway)
        raise


async def _stop_gateway(client: Client, view: Stages, seconds: float, gateway: Object) -> None:
    began = monotonic()
    await _scale(client, gateway, 0)
    while pods := [pod for pod in await _pods(client, gateway) if pod["status"].get("phase") not in _ENDED]:
        view.waiting(f"the gateway is stopping: {len(pods)} left, such as {pods[0]['metadata']['name']}")
        if monotonic() > began + seconds:
            raise DowngradeError(f"these pods of the gateway have not ended in {seconds:.0f} s: {_names(pods)}")
        await SYSTEM_CLOCK.sleep(_POLL_SECONDS)
    view.stage("the gateway is stopped", monotonic() - began)


async def _start_gateway(client: Client, gateway: Object) -> None:
    """As many as before, unless Helm has set a number since."""
    name, namespace = gateway["metadata"]["name"], gateway["metadata"]["namespace"]
    now = await client.get(DEPLOYMENTS, name, namespace=namespace, into=dict[str, Any])
    if now["spec"].get("replicas") == 0:
        await _scale(client, gateway, gateway["spec"].get("replicas", 1))


async def _scale(client: Client, gateway: Object, replicas: int) -> None:
    name, namespace = gateway["metadata"]["name"], gateway["metadata"]["namespace"]
    await client.patch(DEPLOYMENTS, name, {"spec": {"replicas": replicas}}, namespace=namespace, into=msgspec.Raw)


async def _run_job(client: Client, view: Stages, seconds: float, downgrade: Downgrade) -> None:
    began, namespace = monotonic(), downgrade.gateway["metadata"]["namespace"]
    name = f"{_DEPLOYMENT}-downgrade-{secrets.token_hex(3)}"
    await client.create(JOBS, job_of(downgrade, name, seconds), namespace=namespace, into=msgspec.Raw)
    watch = Watch(client, [namespace], view, (name,))
    watching = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(seconds):
            await _until_complete(client, namespace, name)
    except TimeoutError:
        why = "".join(f"\n  {reason.object}: {reason.sentence}" for reason in watch.reasons)
        raise DowngradeError(f"the Job {name} is not done after {seconds:.0f} s{why}") from None
    finally:
        await stop_telling(watching, view)
        with suppress(NotFound):
            await client.delete(JOBS, name, namespace=namespace, propagation="Background", into=msgspec.Raw)
    view.stage(f"the database is at revision {downgrade.revision}", monotonic() - began)


async def _until_complete(client: Client, namespace: str, name: str) -> None:
    """Raises DowngradeError with what the Job's pod has said."""
    while True:
        job = await client.get(JOBS, name, namespace=namespace, into=dict[str, Any])
        conditions = (job.get("status") or {}).get("conditions") or ()
        ended = {condition["type"]: condition for condition in conditions if condition["status"] == "True"}
        if "Complete" in ended:
            return
        if "Failed" in ended:
            pods = await client.list(PODS, namespace=namespace, label_selector=f"job-name={name}", into=dict[str, Any])
            said = " ".join(filter(None, map(_last_words, pods))) or ended["Failed"].get("message", "no message")
            raise DowngradeError(f"the Job {name} failed: {said}")
        await SYSTEM_CLOCK.sleep(_POLL_SECONDS)


def job_of(downgrade: Downgrade, name: str, seconds: float) -> dict[str, Any]:
    """A pod like the gateway's, with its database, volumes and labels: the NetworkPolicies name those."""
    template = downgrade.gateway["spec"]["template"]
    pod, gateway = template["spec"], _container(downgrade.gateway)
    kept = ("image", "imagePullPolicy", "env", "envFrom", "volumeMounts", "securityContext", "resources")
    container = {
        "name": "downgrade",
        **{key: gateway[key] for key in kept if key in gateway},
        "command": ["python", "-m", "vdi.gateway.store.downgrade", downgrade.revision],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec = {
        **{key: value for key, value in pod.items() if key != "initContainers"},
        "containers": [container],
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": dict(template["metadata"]["labels"])},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": max(1, round(seconds)),
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "template": {"metadata": {"labels": dict(template["metadata"]["labels"])}, "spec": spec},
        },
    }


async def _pods(client: Client, gateway: Object) -> list[dict[str, Any]]:
    selector = ",".join(f"{key}={value}" for key, value in gateway["spec"]["selector"]["matchLabels"].items())
    namespace = gateway["metadata"]["namespace"]
    found = await client.list(PODS, namespace=namespace, label_selector=selector, into=dict[str, Any])
    return [pod for pod in found if "job-name" not in pod["metadata"]["labels"]]


def _container(gateway: Object) -> dict[str, Any]:
    containers: list[dict[str, Any]] = gateway["spec"]["template"]["spec"]["containers"]
    return next(container for container in containers if container["name"] == _CONTAINER)


def _revision(gateway: Object) -> str:
    return str((gateway["metadata"].get("annotations") or {}).get(REVISION, _FIRST))


def _images(pod: Object) -> dict[str, str]:
    return {container["name"]: container["image"] for container in pod["spec"]["containers"]}


def _has_started(pod: Object) -> bool:
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        states = {*(status.get("state") or {}), *(status.get("lastState") or {})}
        if status["name"] == _CONTAINER and states & {"running", "terminated"}:
            return True
    return False


def _last_words(pod: Object) -> str:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    ended = [(status.get("state") or {}).get("terminated") or {} for status in statuses]
    return " ".join(str(state.get("message") or "").strip() for state in ended)


def _names(pods: Iterable[Object]) -> str:
    return ", ".join(str(pod["metadata"]["name"]) for pod in pods)
