"""Desktop of a session: session, template and settings with all defaults applied and all limits
checked. Pure.

Operator, gateway and doctor resolve it. Nothing is clipped in silence: a request over a maximum
blocks the session, with a message that names field, value and maximum.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from vdi.api.crd import allowed_in_session
from vdi.api.session import QueueStatus, SessionResources, SessionSpec, VDISession
from vdi.api.template import (
    EnvVar,
    Placement,
    PodTemplate,
    Scheme,
    StartupScript,
    TemplateResources,
    TemplateVolume,
    VDITemplate,
)
from vdi.cluster.capacity import Demand, demand_of
from vdi.cluster.objects import NodeSelectorTerm
from vdi.cluster.units import (
    EPHEMERAL_STORAGE,
    PODS,
    amount,
    parse_duration,
    parse_quantity,
    smaller_quantity,
)
from vdi.session import template_image
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import ADMITTED, Reason
from vdi.session.homes import NO_HOMES, Home, Homes, resolve_home
from vdi.session.isolation import Isolation, plan_isolation
from vdi.session.naming import is_operators_key, refuse_hostname
from vdi.session.schedule import find_problems, find_session_problem, is_time_zone
from vdi.session.volumes import Mount, find_volume_problems, groups_of, resolve_mounts

# Variables that protect the session. A template that sets one is refused instead of being overruled
# in silence.
_GUARDED_ENV = frozenset(
    {
        "SELKIES_ENABLE_BASIC_AUTH",
        "SELKIES_BASIC_AUTH_USER",
        "SELKIES_BASIC_AUTH_PASSWORD",
        "SELKIES_BASIC_AUTH_VIEWONLY_PASSWORD",
        "SELKIES_MASTER_TOKEN",
        "VDI_MASTER_TOKEN_SHA256",
        "VDI_AGENT_TOKEN",
        "VDI_AGENT_TOKEN_SHA256",
        "VDI_AGENT_PORT",
        "VDI_AGENTS",
        "SELKIES_COMPUTER_USE_BIND",
        "SELKIES_COMPUTER_USE_TOKEN",
        "PIXELFLUX_CU",
        "PIXELFLUX_CU_TOKEN",
        "VDI_RECORDING",
        "VDI_USER",
        "VDI_WATERMARK",
    }
)

# On a shared node this one would show every GPU to a desktop that requested none.
_GUARDED_ENV_WITHOUT_GPU = frozenset({"NVIDIA_VISIBLE_DEVICES"})
# The API server writes this default into a session that names other resources but no memory.
_ASSUMED_MEMORY = SessionResources().memory


@dataclass(frozen=True, slots=True)
class FieldError:
    """A field of a session whose value is not allowed."""

    # Path, such as `spec.resources.memory`.
    field: str
    value: str | int
    allowed: str
    # A clause for people, with field, value and what is allowed.
    message: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """The reason why a session cannot have its desktop now."""

    # A `Reason` or `PodReason`, in the condition below.
    reason: str
    # A sentence for the person who waits.
    message: str
    # The condition that it makes False.
    condition: str = ADMITTED
    # True: it lasts until someone changes something (phase Failed); False: it may pass by itself
    # (Pending).
    needs_change: bool = False
    # Set while the session waits for capacity.
    queue: QueueStatus | None = None
    errors: tuple[FieldError, ...] = ()


@dataclass(frozen=True, slots=True)
class Desktop:
    """A resolved desktop: everything that its pod is built from."""

    image: str
    template_revision: str
    # IANA name; empty: that of the template's variables or of the image.
    time_zone: str
    cpu: str
    memory: str
    gpu: int
    gpu_resource: str
    request_cpu: str
    request_memory: str
    # Request and limit; None: neither.
    ephemeral_storage: str | None
    env: tuple[EnvVar, ...]
    port: int
    scheme: Scheme
    # Path that the kubelet requests; empty: it only connects to the port.
    probe_path: str
    # Generation of Selkies in the image: "1" or "2"; empty: it has none.
    selkies: str
    run_as_user: int
    shm_size: str
    home: Home | None
    # The template's volumes that this user gets.
    volumes: tuple[TemplateVolume, ...]
    mounts: tuple[Mount, ...]
    startup_script: StartupScript | None
    placement: Placement
    pod_template: PodTemplate
    image_pull_secrets: tuple[str, ...]
    # The gateway controls access, and the desktop asks for no password.
    behind_gateway: bool
    isolation: Isolation

    def demand(self, pin: tuple[NodeSelectorTerm, ...] = ()) -> Demand:
        """The capacity that its pod needs. `pin`: the nodes that can reach its home; empty: all."""
        takes = {
            "cpu": amount("cpu", self.request_cpu),
            "memory": amount("memory", self.request_memory),
            self.gpu_resource: self.gpu,
            PODS: 1,
        }
        if self.ephemeral_storage is not None:
            takes[EPHEMERAL_STORAGE] = amount(EPHEMERAL_STORAGE, self.ephemeral_storage)
        placement = self.placement
        return demand_of(
            takes, placement.node_selector.items(), placement.tolerations, pin, self.isolation.needs
        )


class Size(NamedTuple):
    """The effective size of a desktop, as quantities."""

    gpu: int
    memory: str
    cpu: str
    ephemeral_storage: str | None


def size_of(spec: SessionSpec, offer: TemplateResources) -> Size:
    """The size that a session's desktop gets: its own values, else the template's.

    The API server writes `gpu: 1` into a session that names another resource only, so a template
    without GPUs decides.
    """
    chosen = spec.resources
    if chosen is None:
        return Size(
            offer.default_gpu,
            offer.default_memory,
            offer.default_cpu,
            offer.default_ephemeral_storage,
        )
    return Size(
        chosen.gpu if offer.default_gpu else 0,
        chosen.memory,
        offer.default_cpu if chosen.cpu is None else chosen.cpu,
        chosen.ephemeral_storage or offer.default_ephemeral_storage,
    )


def gpus_of(session: VDISession, template: VDITemplate | None) -> int:
    """GPUs that the session has or will have; without its template, those of its own spec."""
    offer = template.spec.resources if template else TemplateResources()
    return size_of(session.spec, offer).gpu


def maximum_of(offer: TemplateResources) -> Size:
    """The largest size that a session of the template may have: its maxima, else its defaults."""
    return Size(
        max(1, offer.default_gpu) if offer.max_gpu is None else offer.max_gpu,
        offer.max_memory or offer.default_memory,
        offer.max_cpu or offer.default_cpu,
        offer.max_ephemeral_storage or offer.default_ephemeral_storage,
    )


def resized(session: VDISession, size: Mapping[str, Any]) -> VDISession:
    """The session with these `resources` changed."""
    resources = msgspec.structs.replace(session.spec.resources or SessionResources(), **size)
    return msgspec.structs.replace(
        session, spec=msgspec.structs.replace(session.spec, resources=resources)
    )


def resolve(
    session: VDISession, template: VDITemplate, settings: ClusterSettings, homes: Homes = NO_HOMES
) -> Desktop | Blocked:
    """The desktop that this session requests and its template allows; Blocked when the request
    cannot be met.

    `homes`: the claims that may be its home and exist. A home that exists keeps its size, so the
    requested size is not checked against the limit.
    """
    spec, offer = template.spec, template.spec.resources
    gpu, memory, cpu, disk = size_of(session.spec, offer)
    home = resolve_home(session, template, homes)
    behind_gateway = settings.edge_middleware is not None
    isolation = plan_isolation(spec, gpu, settings.gpu_resource)

    # Only the worst kind of problem is reported, but all problems of that kind at once, so that one
    # edit can fix them.
    if of_session := [*_invalid_hostname(session, settings), *_invalid_session(session.spec)]:
        return _refuse(Reason.INVALID_SESSION, of_session)
    if of_template := list(
        _invalid_template(template, isolation, gpu=gpu, home=home, behind_gateway=behind_gateway)
    ):
        message = (
            f"The template {template.metadata.name!r} cannot be used: {'; '.join(of_template)}."
        )
        return Blocked(Reason.INVALID_TEMPLATE, message, needs_change=True)
    new_home = home.size if home and home.claim not in homes else None
    if over := list(
        _over_limit(template, cpu=cpu, memory=memory, gpu=gpu, disk=disk, new_home=new_home)
    ):
        return _refuse(Reason.OVER_LIMIT, over)

    mounts = resolve_mounts(spec, session.spec.user, groups_of(session))
    # The image's own home belongs to another user than root.
    root_home = (
        ()
        if home or spec.user_id
        else (Mount("home", spec.persistence.mount_path, "", read_only=False),)
    )
    return Desktop(
        image=spec.image,
        template_revision=str(template.metadata.generation),
        time_zone=session.spec.time_zone or "",
        cpu=cpu,
        memory=memory,
        gpu=gpu,
        gpu_resource=settings.gpu_resource,
        request_cpu=smaller_quantity(settings.requests_cpu, cpu),
        request_memory=smaller_quantity(settings.requests_memory, memory),
        ephemeral_storage=disk,
        env=(*spec.env, *template_image.settings(spec)),
        port=spec.port,
        scheme=spec.scheme,
        probe_path=template_image.probe_path(spec, behind_gateway=behind_gateway),
        selkies=template_image.generation(spec),
        run_as_user=spec.user_id,
        shm_size=spec.shm_size,
        home=home,
        volumes=mounts.volumes,
        mounts=(*mounts.mounts, *root_home),
        startup_script=spec.startup_script,
        placement=spec.placement,
        pod_template=spec.pod_template,
        image_pull_secrets=tuple(secret.name for secret in spec.image_pull_secrets),
        behind_gateway=behind_gateway,
        isolation=isolation,
    )


def _refuse(reason: Reason, errors: list[FieldError]) -> Blocked:
    message = "; ".join(error.message for error in errors) + "."
    return Blocked(reason, message, needs_change=True, errors=tuple(errors))


def _invalid_hostname(session: VDISession, settings: ClusterSettings) -> Iterator[FieldError]:
    if why := refuse_hostname(session, settings):
        yield _not_allowed("spec.hostname", session.spec.hostname or "", why)


def _invalid_session(spec: SessionSpec) -> Iterator[FieldError]:
    requested, home = spec.resources, spec.persistence
    if requested:
        amounts = {
            "memory": requested.memory,
            "cpu": requested.cpu,
            "ephemeralStorage": requested.ephemeral_storage,
        }
        yield from _not_quantities(
            {f"spec.resources.{field}": value for field, value in amounts.items()}
        )
    yield from _not_quantities({"spec.persistence.size": home.size} if home else {})
    if requested and requested.gpu < 1:
        yield _not_allowed(
            "spec.resources.gpu",
            requested.gpu,
            f"{requested.gpu} is not allowed; allowed: 1 or more",
        )
    try:
        parse_duration(spec.timeout)
    except ValueError as why:
        yield _not_allowed("spec.timeout", spec.timeout, str(why))
    if spec.time_zone and not is_time_zone(spec.time_zone):
        yield _not_allowed(
            "spec.timeZone", spec.time_zone, f"{spec.time_zone!r} is not a known time zone"
        )
    if spec.schedule and (problem := find_session_problem(spec.schedule)):
        name, value, allowed = problem
        field = f"spec.schedule.{name}"
        yield FieldError(
            field, value, allowed, f"{field}: {value!r} is not allowed; allowed: {allowed}"
        )


def _not_allowed(field: str, value: str | int, why: str) -> FieldError:
    return FieldError(field, value, allowed_in_session(field), f"{field}: {why}")


def _invalid_template(
    template: VDITemplate,
    isolation: Isolation,
    *,
    gpu: int,
    home: Home | None,
    behind_gateway: bool,
) -> Iterator[str]:
    spec, offer = template.spec, template.spec.resources
    quantities = {
        "spec.resources.defaultCPU": offer.default_cpu,
        "spec.resources.defaultMemory": offer.default_memory,
        "spec.resources.maxCPU": offer.max_cpu,
        "spec.resources.maxMemory": offer.max_memory,
        "spec.resources.defaultEphemeralStorage": offer.default_ephemeral_storage,
        "spec.resources.maxEphemeralStorage": offer.max_ephemeral_storage,
        "spec.shmSize": spec.shm_size,
        "spec.persistence.size": spec.persistence.size,
        "spec.persistence.maxSize": spec.persistence.max_size,
    }
    yield from (error.message for error in _not_quantities(quantities))
    if gpu:
        guarded = _GUARDED_ENV
    else:
        guarded = _GUARDED_ENV | _GUARDED_ENV_WITHOUT_GPU
    for variable in spec.env:
        if variable.name in guarded:
            yield (
                f"spec.env: {variable.name} is reserved for the operator (it protects the session);"
                " remove it"
            )
    metadata = spec.pod_template.metadata
    for field, keys in (("labels", metadata.labels), ("annotations", metadata.annotations)):
        for key in keys:
            if is_operators_key(key):
                yield (
                    f"spec.podTemplate.metadata.{field}: {key!r} is reserved for the operator;"
                    " remove it"
                )
    yield from template_image.find_image_problems(spec, behind_gateway=behind_gateway)
    if isolation.user_namespace and isolation.obstacle:
        yield (
            f"spec.isolation.userNamespaces: 'Required' is not possible: {isolation.obstacle};"
            " allowed: Auto, Off"
        )
    if spec.schedule:
        yield from find_problems(spec.schedule)
    yield from find_volume_problems(
        spec, home.mount_path if home else None, behind_gateway=behind_gateway
    )


def _not_quantities(fields: Mapping[str, str | None]) -> Iterator[FieldError]:
    for field, value in fields.items():
        if value is None:
            continue
        try:
            if parse_quantity(value) <= 0:
                yield _not_allowed(
                    field, value, f"{value!r} is not allowed; allowed: more than zero"
                )
        except ValueError as why:
            yield _not_allowed(field, value, str(why))


def _over_limit(
    template: VDITemplate,
    *,
    cpu: str,
    memory: str,
    gpu: int,
    disk: str | None,
    new_home: str | None,
) -> Iterator[FieldError]:
    offer, name = template.spec.resources, template.metadata.name
    maximum = maximum_of(offer)
    if gpu > maximum.gpu:
        yield _more_than("spec.resources.gpu", gpu, maximum.gpu, name)
    maxima = {"memory": (memory, maximum.memory), "cpu": (cpu, maximum.cpu)}
    if disk is not None and offer.default_ephemeral_storage is not None:
        maxima["ephemeralStorage"] = (disk, maximum.ephemeral_storage or disk)
    elif disk is not None:
        field = "spec.resources.ephemeralStorage"
        why = f"{disk} is not allowed; template {name!r} has no defaultEphemeralStorage"
        yield FieldError(
            field, disk, "no value: the template has no defaultEphemeralStorage", f"{field}: {why}"
        )
    for field, (desired, most) in maxima.items():
        if parse_quantity(desired) > parse_quantity(most):
            assumed = field == "memory" and desired == _ASSUMED_MEMORY
            hint = ""
            if assumed:
                hint = f" ({desired} is the value if spec.resources sets no memory)"
            yield _more_than(f"spec.resources.{field}", desired, most, name, hint)
    home = template.spec.persistence
    most_home = home.size if home.max_size is None else home.max_size
    if new_home is not None and parse_quantity(new_home) > parse_quantity(most_home):
        yield _more_than("spec.persistence.size", new_home, most_home, name)


def _more_than(
    field: str, value: str | int, most: str | int, template: str, hint: str = ""
) -> FieldError:
    message = f"{field}: {value} is more than the {most} that template {template!r} allows{hint}"
    return FieldError(field, value, f"at most {most}", message)
