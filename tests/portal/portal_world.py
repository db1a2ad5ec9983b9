"""Puts the scene into a portal: its templates, desktops, nodes and homes, and its past."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from portal import scene
from unit.gateway.portal_stage import PortalStage, a_session, a_template
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.gateway.doctor import Group, Report
from vdi.gateway.store.history import RunRow, SessionRow
from vdi.session.homes import HomeClaim
from vdi.session.naming import TEMPLATE_ANNOTATION, USER_ANNOTATION, home_claim_name

START, LIMITS = scene.START, scene.LIMITS
_CROWD = ("heidi", "ivan", "judy", "niaj", "olivia", "rupert", "sybil", "trent")


_SCRIPTS = [
    {"source": "template", "state": "Ended", "exitCode": 0, "output": "The licence server answers.\n"},
    {
        "source": "user",
        "state": "Ended",
        "exitCode": 127,
        "output": "".join(f"{number}: linking a file with a long name\n" for number in range(60)),
    },
]


def furnish(stage: PortalStage, *, crowd: int = 0) -> None:
    """Put the scene into the stage, moved to the time of its clock, and `crowd` suspended and failed desktops more."""
    moved = stage.clock.wall - START
    stage.put(*(_template(name, template) for name, template in scene.TEMPLATES.items()))
    stage.put(*(_session(stage, desktop, moved) for desktop in scene.DESKTOPS), *_crowd(stage, crowd))
    stage.put(*(_pool(pool) for pool in scene.POOLS))
    for owner, template in scene.homes():
        stage.world.homes.observe(_home(owner.email, template))
    stage.cluster.nodes = [_node(name) for name in scene.NODES]
    _past(stage, moved)
    for entry in reversed(scene.AUDIT):
        at = stage.clock.wall - timedelta(minutes=entry.minutes_ago)
        more = {"target_owner": entry.owner, "outcome": entry.outcome, "detail": entry.detail}
        stage.enter_act(entry.actor, entry.action, entry.target, at=at, address="203.0.113.7", **more)
    stage.agent.scripts[scene.EXPIRING] = msgspec.json.encode({"scripts": _SCRIPTS})
    cause, *follows = scene.FINDINGS
    groups = (Group(cause, tuple(follows)),)
    stage.services.doctor.last = Report(stage.clock.wall - timedelta(minutes=3), scene.DOCTOR_SUMMARY, groups)


def _template(name: str, template: scene.Template) -> Any:
    sizes = {"defaultGPU": template.gpu, "defaultCPU": str(template.cpu), "defaultMemory": f"{template.memory_gib}Gi"}
    return a_template(
        name,
        displayName=template.title,
        icon=template.icon,
        description=template.description,
        resources={**sizes, **template.most},
        **template.spec,
    )


def _session(stage: PortalStage, desktop: scene.Desktop, moved: timedelta) -> VDISession:
    def text(moment: datetime) -> str:
        return scene.text_of(moment + moved)

    status: dict[str, Any] = {"phase": desktop.phase, "message": desktop.message, "url": _url(stage, desktop.name)}
    if desktop.has_pod:
        started = text(desktop.started)
        status |= {"podName": desktop.name, "nodeName": desktop.node, "startTime": started}
        status |= {"expiresAt": text(desktop.expires)}
        if scene.TEMPLATES[desktop.template].has_home:
            status |= {"homeClaim": _claim_name(desktop.owner.email, desktop.template)}
    if desktop.queue:
        queue = {"position": desktop.queue.position, "reason": "GPUsBusy", "earliestSlot": text(desktop.queue.earliest)}
        found = {"type": "TemplateFound", "status": "True", "reason": "Found"}
        waiting = {"type": "Admitted", "status": "False", "reason": "GPUsBusy", "message": desktop.message}
        status |= {"queue": queue, "conditions": [found, waiting]}
    if desktop.name == scene.EXPIRING:
        expiring = {"type": "Expiring", "status": "True", "reason": "ExpiringSoon"}
        status |= {"conditions": [expiring | {"message": scene.EXPIRING_MESSAGE}]}
    spec: dict[str, Any] = {"timeout": f"{desktop.hours}h"}
    if desktop.gpus is not None:
        memory = f"{scene.TEMPLATES[desktop.template].memory_gib}Gi"
        spec["resources"] = {"gpu": desktop.gpus, "memory": memory}
    if desktop.guests:
        spec["access"] = [
            {"user": scene.USERS[guest].email, "role": role}
            | ({"expires": text(START + timedelta(hours=hours))} if hours else {})
            for guest, role, hours in desktop.guests
        ]
    return a_session(
        desktop.name,
        user=desktop.owner.email,
        template=desktop.template,
        created=text(desktop.created),
        suspended=desktop.phase == "Suspended",
        status=status,
        **spec,
    )


def _url(stage: PortalStage, name: str) -> str:
    return f"{stage.settings.url(stage.settings.host(name))}/"


def _crowd(stage: PortalStage, crowd: int) -> Iterable[VDISession]:
    """So many that lists have several pages. They use nothing that the scene adds up."""
    for number in range(crowd):
        failed = number % 15 == 1
        name = f"{_CROWD[number % len(_CROWD)]}-{number}"
        message = "The image cannot be pulled: registry.example.com answers 403." if failed else ""
        status = {"phase": "Failed" if failed else "Suspended", "message": message, "url": _url(stage, name)}
        user = f"{_CROWD[number % len(_CROWD)]}@{scene.DOMAIN}"
        created = scene.text_of(stage.clock.wall - timedelta(days=1, minutes=number))
        yield a_session(name, user=user, template="qgis", created=created, status=status, suspended=not failed)


def _pool(pool: scene.Pool) -> VDIPool:
    status = {"ready": pool.ready, "starting": 0, "claimed": 12, "message": pool.message}
    return msgspec.convert(
        {
            "metadata": {"name": f"{pool.template}-ready"},
            "spec": {"template": pool.template, "replicas": pool.desired},
            "status": status,
        },
        VDIPool,
    )


def _claim_name(email: str, template: str) -> str:
    return home_claim_name(session_name="", user=email, template=template, retain=True)


def _home(email: str, template: str) -> HomeClaim:
    return msgspec.convert(
        {
            "metadata": {
                "name": _claim_name(email, template),
                "namespace": "vdi-sessions",
                "uid": f"uid-home-{email}-{template}",
                "resourceVersion": "1",
                "creationTimestamp": scene.text_of(START.replace(day=1)),
                "annotations": {USER_ANNOTATION: email, TEMPLATE_ANNOTATION: template},
            },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": f"{scene.HOME_GIB}Gi"}},
            },
            "status": {"phase": "Bound", "capacity": {"storage": f"{scene.HOME_GIB}Gi"}},
        },
        HomeClaim,
    )


def _node(name: str) -> dict[str, Any]:
    slots = scene.GPU_SLOTS.get(name, 0)
    offer = {"nvidia.com/gpu": str(slots)} if slots else {}
    return {
        "metadata": {"name": name, "labels": {}},
        "spec": {},
        "status": {"capacity": offer, "allocatable": offer},
    }


def _past(stage: PortalStage, moved: timedelta) -> None:
    for past in scene.past_desktops():
        run = _moved(past.run, moved)
        uid = f"uid-{past.name}" if run.ended is None else run.uid
        session = SessionRow(
            uid=uid,
            name=past.name,
            namespace="vdi-sessions",
            owner=past.owner.email,
            template=past.template,
            created=run.start - timedelta(seconds=run.queue_seconds or 1),
            ended=run.ended,
            end_reason=run.end_reason,
            ended_by=past.owner.email if run.end_reason == "user" else "",
        )
        stage.remember(session, replace(run, uid=uid))


def _moved(run: RunRow, moved: timedelta) -> RunRow:
    return replace(
        run,
        start=run.start + moved,
        ready=run.ready + moved if run.ready else None,
        ended=run.ended + moved if run.ended else None,
    )
