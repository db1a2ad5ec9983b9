"""The form that starts a desktop: the template's offer as lists, and the filled form as a SessionRequest. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vdi.api.session import SessionSpec, VDISession
from vdi.api.template import AccessMode, HomeScope, TimeoutAction, VDITemplate
from vdi.gateway.portal.pages import Choice
from vdi.gateway.users import User, normal_user
from vdi.gateway.web.template_filters import byte_size, cpus, memory
from vdi.session.alerts import describe_end
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.lifetime import max_timeout
from vdi.session.naming import user_home_claim_name
from vdi.session.request import SessionRequest, generate_name
from vdi.session.units import parse_duration, parse_quantity

_MEMORY = ("1Gi", "2Gi", "4Gi", "8Gi", "12Gi", "16Gi", "24Gi", "32Gi", "48Gi", "64Gi", "96Gi", "128Gi", "256Gi")
_CPU = ("500m", "1", "2", "4", "6", "8", "12", "16", "24", "32", "64")
_LOCAL_DISK = ("1Gi", "2Gi", "5Gi", "10Gi", "20Gi", "50Gi", "100Gi", "200Gi", "500Gi", "1Ti")
_TIMES = ("1h", "2h", "4h", "8h", "12h", "24h", "72h", "168h")
_IDLE = ("15m", "30m", "1h", "2h", "4h", "8h")
_TIME_WORDS = {"24h": "1 day", "72h": "3 days", "168h": "1 week"}
_MOST_GPUS = 64
_HOME_NOTES = {
    HomeScope.USER_AND_TEMPLATE: "Files in your home folder are there the next time you start this kind of desktop.",
    HomeScope.USER: (
        "Files in your home folder are there the next time, also in your other desktops that use this folder."
    ),
    HomeScope.SESSION: "This desktop gets a home folder of its own: kept when it is restarted, deleted when it ends.",
}
_TAKEN = 100
"""Names that are tried until one is free."""
DEFAULT_TIMEOUT: str = SessionSpec(user="", template="").timeout


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The form's lists; one that is empty is not shown."""

    gpus: list[Choice]
    memory: list[Choice]
    cpus: list[Choice]
    ephemeral_storage: list[Choice]
    timeouts: list[Choice]
    timeout_hint: str
    """What the desktop does at the end of its time."""
    idle: list[Choice]
    idle_hint: str
    """What the desktop does after the idle timeout."""
    home: bool
    """Whether the template has a home that can be done without."""
    home_note: str
    """Who finds the files in it again."""


def offer_of(template: VDITemplate, cluster: ClusterSettings) -> Offer:
    """What template and cluster allow."""
    resources, life = template.spec.resources, template.spec.lifecycle
    most = resources.max_gpu if resources.max_gpu is not None else max(1, resources.default_gpu)
    gpus = range(1, min(most, _MOST_GPUS) + 1) if resources.default_gpu else ()
    memory_steps = _up_to(_MEMORY, resources.default_memory, resources.max_memory)
    cpu_steps = _up_to(_CPU, resources.default_cpu, resources.max_cpu)
    disk = resources.default_ephemeral_storage
    disk_steps = _up_to(_LOCAL_DISK, disk, resources.max_ephemeral_storage) if disk else ()
    idle_default = (
        f"after {_time_words(life.idle_timeout)} (default)" if life.idle_timeout else "never: keep it running"
    )
    return Offer(
        gpus=[Choice(str(number), f"{number} GPU{'s' * (number > 1)}") for number in gpus],
        memory=[Choice(step, memory(step)) for step in memory_steps],
        cpus=[Choice(step, cpus(step)) for step in cpu_steps],
        ephemeral_storage=[Choice(step, byte_size(step)) for step in disk_steps],
        timeouts=[Choice(time, _time_words(time)) for time in _times(max_timeout(template, cluster))],
        timeout_hint=_timeout_hint(life.on_timeout),
        idle=[Choice("", idle_default), *(Choice(time, f"after {_time_words(time)}") for time in _IDLE)],
        idle_hint=f"After this long without mouse or keyboard input, the desktop {describe_end(life.on_idle)}.",
        home=template.spec.persistence.enabled,
        home_note=_HOME_NOTES[template.spec.persistence.scope],
    )


def _timeout_hint(action: TimeoutAction) -> str:
    match action:
        case TimeoutAction.SUSPEND:
            more = "Its files are kept"
        case TimeoutAction.TERMINATE:
            more = "You can extend the time before then"
    return f"Then the desktop {describe_end(action)}. {more}."


def first_choice(template: VDITemplate, cluster: ClusterSettings, user: User, names: Iterable[str]) -> dict[str, str]:
    """What the form says before anybody has touched it."""
    resources, taken = template.spec.resources, set(names)
    base = generate_name(user.email, template.metadata.name)
    free = (name for name in [base, *(f"{base[:58]}-{number}" for number in range(2, _TAKEN))] if name not in taken)
    timeouts = _times(max_timeout(template, cluster))
    return {
        "name": next(free, base),
        "gpu": str(resources.default_gpu or ""),
        "memory": resources.default_memory,
        "cpu": resources.default_cpu,
        "ephemeral_storage": resources.default_ephemeral_storage or "",
        "timeout": DEFAULT_TIMEOUT if DEFAULT_TIMEOUT in timeouts else timeouts[-1],
        "idle": "",
        "home": "yes",
    }


def session_request(form: Mapping[str, str], template: VDITemplate, user: User) -> SessionRequest:
    """What the form asks for. Raises ValueError with a sentence that names the field and what is allowed.

    What is as the template has it is left out, so that the session's object says only what was chosen.
    """
    resources = template.spec.resources
    gpu = form.get("gpu", "")
    if gpu and not re.fullmatch(r"[0-9]{1,4}", gpu):
        raise ValueError(f"GPUs: {gpu!r} is not a whole number.")
    for field, words in (("memory", "Memory"), ("cpu", "CPUs"), ("ephemeral_storage", "Local disk")):
        _check(words, form.get(field, ""), parse_quantity)
    for field, words in (("timeout", "Time limit"), ("idle", "Idle timeout")):
        _check(words, form.get(field, ""), parse_duration)

    def chosen(field: str, usual: str) -> str | None:
        given = form.get(field, "")
        return given if given and given != usual else None

    gpus = chosen("gpu", str(resources.default_gpu)) if resources.default_gpu else None
    return SessionRequest(
        user=normal_user(user.email),
        template=template.metadata.name,
        name=form.get("name") or None,
        gpu=int(gpus) if gpus else None,
        memory=chosen("memory", resources.default_memory),
        cpu=chosen("cpu", resources.default_cpu),
        ephemeral_storage=chosen("ephemeral_storage", resources.default_ephemeral_storage or ""),
        timeout=form.get("timeout") or None,
        idle_timeout=form.get("idle") or None,
        home=False if template.spec.persistence.enabled and form.get("home") != "yes" else None,
    )


def sharing_home(sessions: Iterable[VDISession], template: VDITemplate, user: User) -> list[str]:
    """The names of this person's desktops whose home a new one of this template would have to wait for."""
    offer = template.spec.persistence
    if not offer.enabled or offer.scope is HomeScope.SESSION or offer.access_mode is AccessMode.READ_WRITE_MANY:
        return []
    return [
        session.metadata.name
        for session in sessions
        if normal_user(session.spec.user) == normal_user(user.email)
        and (
            session.spec.template == template.metadata.name
            or (offer.scope is HomeScope.USER and session.status.home_claim == user_home_claim_name(session.spec.user))
        )
        and not session.spec.suspended
        and not session.metadata.deletion_timestamp
        and (session.spec.persistence is None or (session.spec.persistence.enabled is not False))
    ]


def _check(words: str, value: str, parse: object) -> None:
    if value and callable(parse):
        try:
            parse(value)
        except ValueError as why:
            raise ValueError(f"{words}: {why}.") from why


def _up_to(steps: Iterable[str], default: str, maximum: str | None) -> list[str]:
    """The steps up to the maximum, with default and maximum themselves among them."""
    limit = parse_quantity(maximum or default)
    found = {parse_quantity(step): step for step in steps if parse_quantity(step) <= limit}
    found |= {parse_quantity(step): step for step in (maximum or default, default)}
    return [found[size] for size in sorted(found)]


def _times(maximum: str | None) -> list[str]:
    if not maximum:
        return list(_TIMES)
    limit = parse_duration(maximum)
    fitting = [time for time in _TIMES if parse_duration(time) < limit]
    return [*fitting, maximum]


def _time_words(text: str) -> str:
    if text in _TIME_WORDS:
        return _TIME_WORDS[text]
    minutes = int(parse_duration(text).total_seconds()) // 60
    parts = ((minutes // 60, "hour"), (minutes % 60, "minute"))
    return " ".join(f"{number} {unit}{'s' * (number > 1)}" for number, unit in parts if number) or text
