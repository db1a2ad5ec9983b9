"""Pages below `/catalogue`: the templates that a user may start, and the form that starts a
desktop.

The form's lists come from the template; the filled form becomes a SessionRequest, as a REST body or
a command does.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.api.recording import RecordingMode
from vdi.api.session import SessionSpec, VDISession
from vdi.api.template import AccessMode, HomeScope, TimeoutAction, VDITemplate
from vdi.cluster.units import parse_duration, parse_quantity
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop.view import Choice, template_title
from vdi.gateway.portal.pages import Form, PortalPages, done, templates_for
from vdi.gateway.rights import User
from vdi.gateway.store.audit import DONE
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.web.assets import shown_icon
from vdi.gateway.web.template_filters import byte_size, count, cpus, in_words, memory
from vdi.session.alerts import describe_end
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.effective import maximum_of
from vdi.session.lifetime import max_timeout
from vdi.session.naming import user_home_claim_name
from vdi.session.recording import recording_note
from vdi.session.request import RequestedHome, RequestedResources, SessionRequest, generate_names
from vdi.session.resize import find_excess
from vdi.session.schedule import is_time_zone
from vdi.session.users import normal_user

_MEMORY = (
    "1Gi",
    "2Gi",
    "4Gi",
    "8Gi",
    "12Gi",
    "16Gi",
    "24Gi",
    "32Gi",
    "48Gi",
    "64Gi",
    "96Gi",
    "128Gi",
    "256Gi",
)
_CPU = ("500m", "1", "2", "4", "6", "8", "12", "16", "24", "32", "64")
_LOCAL_DISK = ("1Gi", "2Gi", "5Gi", "10Gi", "20Gi", "50Gi", "100Gi", "200Gi", "500Gi", "1Ti")
_TIMES = ("1h", "2h", "4h", "8h", "12h", "24h", "72h", "168h")
_IDLE = ("15m", "30m", "1h", "2h", "4h", "8h")
_TIME_WORDS = {"24h": "1 day", "72h": "3 days", "168h": "1 week"}
_MOST_GPUS = 64
_HOME_NOTES = {
    HomeScope.USER_AND_TEMPLATE: (
        "Files in your home folder are there the next time you start this kind of desktop."
    ),
    HomeScope.USER: (
        "Files in your home folder are there the next time, also in your other desktops that use"
        " this folder."
    ),
    HomeScope.SESSION: (
        "This desktop gets a home folder of its own: kept when it is restarted, deleted when it"
        " ends."
    ),
}
_AFTER = {
    TimeoutAction.SUSPEND: "Its files are kept",
    TimeoutAction.TERMINATE: "You can extend the time before then",
}
# Starts of a user, of all templates, among which the last one of each is looked for.
_LAST_STARTS = 100

DEFAULT_TIMEOUT: str = SessionSpec(user="", template="").timeout


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The form's lists, by its fields; one that is empty is not shown."""

    gpu: list[Choice]
    memory: list[Choice]
    cpu: list[Choice]
    ephemeral_storage: list[Choice]
    timeout: list[Choice]
    # What the desktop does at the end of its time.
    timeout_hint: str
    idle: list[Choice]
    # What the desktop does after the idle timeout.
    idle_hint: str
    # What can be chosen instead of the template's home.
    home: list[Choice]
    # Who finds the files in it again.
    home_note: str


def size_choices(template: VDITemplate, chosen: str, cpu: str) -> tuple[list[Choice], list[Choice]]:
    """Memory and CPUs up to the template's maximum and to what a node has, with these two among
    them.
    """
    maximum = maximum_of(template.spec.resources)
    memory_steps = _up_to(_MEMORY, chosen, maximum.memory)
    cpu_steps = _up_to(_CPU, cpu, maximum.cpu)
    memory_steps = [
        step
        for step in memory_steps
        if step == chosen or not find_excess(template, {"memory": step})
    ]
    cpu_steps = [
        step for step in cpu_steps if step == cpu or not find_excess(template, {"cpu": step})
    ]
    return [Choice(step, memory(step)) for step in memory_steps], [
        Choice(step, cpus(step)) for step in cpu_steps
    ]


def offer_of(template: VDITemplate, cluster: ClusterSettings) -> Offer:
    """Lists of what template and cluster allow."""
    resources, life = template.spec.resources, template.spec.lifecycle
    most = min(maximum_of(resources).gpu, _MOST_GPUS)
    gpus = range(1, most + 1) if resources.default_gpu else ()
    memory_steps, cpu_steps = size_choices(
        template, resources.default_memory, resources.default_cpu
    )
    disk = resources.default_ephemeral_storage
    disk_steps = _up_to(_LOCAL_DISK, disk, resources.max_ephemeral_storage) if disk else ()
    idle_default = "never: keep it running"
    if life.idle_timeout:
        idle_default = f"after {_time_words(life.idle_timeout)} (default)"
    return Offer(
        gpu=[Choice(str(number), count(number, "GPU")) for number in gpus],
        memory=memory_steps,
        cpu=cpu_steps,
        ephemeral_storage=[Choice(step, byte_size(step)) for step in disk_steps],
        timeout=[
            Choice(time, _time_words(time)) for time in _times(max_timeout(template, cluster))
        ],
        timeout_hint=(
            f"Then the desktop {describe_end(life.on_timeout)}. {_AFTER[life.on_timeout]}."
        ),
        idle=[
            Choice("", idle_default),
            *(Choice(time, f"after {_time_words(time)}") for time in _IDLE),
        ],
        idle_hint=(
            "After this long without mouse or keyboard input, the desktop"
            f" {describe_end(life.on_idle)}."
        ),
        home=[Choice("no", "without your files")] if template.spec.persistence.enabled else [],
        home_note=_HOME_NOTES[template.spec.persistence.scope],
    )


def first_choice(
    template: VDITemplate, cluster: ClusterSettings, user: User, names: Iterable[str]
) -> dict[str, str]:
    """Values of the empty form, by its fields."""
    resources, taken = template.spec.resources, set(names)
    generated = generate_names(user.email, template.metadata.name)
    timeouts = _times(max_timeout(template, cluster))
    return {
        "name": next((name for name in generated if name not in taken), ""),
        "gpu": str(resources.default_gpu or ""),
        "memory": resources.default_memory,
        "cpu": resources.default_cpu,
        "ephemeral_storage": resources.default_ephemeral_storage or "",
        "timeout": DEFAULT_TIMEOUT if DEFAULT_TIMEOUT in timeouts else timeouts[-1],
        "idle": "",
        "home": "yes",
    }


def last_choice(
    template: VDITemplate, cluster: ClusterSettings, user: User, last: Mapping[str, str]
) -> dict[str, Choice]:
    """Options of the last start that are no defaults of the template, as far as it still offers
    them.
    """
    offer, usual = offer_of(template, cluster), first_choice(template, cluster, user, ())
    return {
        field: choice
        for field, value in usual.items()
        for choice in getattr(offer, field, ())
        if choice.value == last.get(field, value) != value
    }


def session_request(form: Mapping[str, str], template: VDITemplate, user: User) -> SessionRequest:
    """The request of a filled form. Raises ValueError with a sentence that names the field and what
    is allowed.

    A value that equals the template's is left out: the session then follows later changes of the
    template.
    """
    resources = template.spec.resources
    gpu = form.get("gpu", "")
    if gpu and not re.fullmatch(r"[0-9]{1,4}", gpu):
        raise ValueError(f"GPUs: {gpu!r} is not a whole number.")
    for field, label in (
        ("memory", "Memory"),
        ("cpu", "CPUs"),
        ("ephemeral_storage", "Local disk"),
    ):
        _check(label, form.get(field, ""), parse_quantity)
    for field, label in (("timeout", "Time limit"), ("idle", "Idle timeout")):
        _check(label, form.get(field, ""), parse_duration)

    def chosen(field: str, usual: str) -> str | None:
        given = form.get(field, "")
        return given if given and given != usual else None

    gpus = None
    if resources.default_gpu:
        gpus = chosen("gpu", str(resources.default_gpu))
    zone = form.get("time_zone", "")
    without_home = template.spec.persistence.enabled and form.get("home") != "yes"
    return SessionRequest(
        user=normal_user(user.email),
        template=template.metadata.name,
        name=form.get("name") or None,
        resources=RequestedResources(
            gpu=int(gpus) if gpus else None,
            memory=chosen("memory", resources.default_memory),
            cpu=chosen("cpu", resources.default_cpu),
            ephemeral_storage=chosen(
                "ephemeral_storage", resources.default_ephemeral_storage or ""
            ),
        ),
        persistence=RequestedHome(enabled=False) if without_home else None,
        timeout=form.get("timeout") or None,
        idle_timeout=form.get("idle") or None,
        # The browser's guess, which no one has typed: a zone that is not known here is no reason to
        # refuse the start.
        time_zone=zone if is_time_zone(zone) else None,
    )


def sharing_home(sessions: Iterable[VDISession], template: VDITemplate, user: User) -> list[str]:
    """Names of this user's desktops whose home a new desktop of this template would have to wait
    for.
    """
    offer = template.spec.persistence
    if (
        not offer.enabled
        or offer.scope is HomeScope.SESSION
        or offer.access_mode is AccessMode.READ_WRITE_MANY
    ):
        return []
    return [
        session.metadata.name
        for session in sessions
        if normal_user(session.spec.user) == normal_user(user.email)
        and (
            session.spec.template == template.metadata.name
            or (
                offer.scope is HomeScope.USER
                and session.status.home_claim == user_home_claim_name(session.spec.user)
            )
        )
        and not session.spec.suspended
        and not session.metadata.deletion_timestamp
        and (session.spec.persistence is None or (session.spec.persistence.enabled is not False))
    ]


def _check(label: str, value: str, parse: Callable[[str], object]) -> None:
    if value:
        try:
            parse(value)
        except ValueError as why:
            raise ValueError(f"{label}: {why}.") from why


def _up_to(steps: Iterable[str], default: str, maximum: str | None) -> list[str]:
    """The steps up to the maximum, with default and maximum themselves among them."""
    limit = parse_quantity(maximum or default)
    sizes = {parse_quantity(step): step for step in steps if parse_quantity(step) <= limit}
    sizes |= {parse_quantity(step): step for step in (maximum or default, default)}
    return [sizes[size] for size in sorted(sizes)]


def _times(maximum: str | None) -> list[str]:
    if not maximum:
        return list(_TIMES)
    limit = parse_duration(maximum)
    fitting = [time for time in _TIMES if parse_duration(time) < limit]
    return [*fitting, maximum]


def _time_words(text: str) -> str:
    return _TIME_WORDS.get(text) or in_words(parse_duration(text)) or text


@dataclass(frozen=True, slots=True)
class TemplateCard:
    """One template in the catalogue."""

    name: str
    title: str
    description: str
    icon: str
    chips: tuple[str, ...]


def template_card(template: VDITemplate, icon_origins: Collection[str]) -> TemplateCard:
    """Title, icon and size of a template."""
    resources, spec = template.spec.resources, template.spec
    gpus = resources.default_gpu
    chips = [count(gpus, "GPU") if gpus else "No GPU", cpus(resources.default_cpu)]
    chips.append(f"{byte_size(resources.default_memory)} memory")
    if resources.default_ephemeral_storage:
        chips.append(f"{byte_size(resources.default_ephemeral_storage)} local disk")
    chips.append("keeps files" if spec.persistence.enabled else "files are not kept")
    if spec.recording and spec.recording.mode is RecordingMode.ALWAYS:
        chips.append("recorded")
    title = template_title(template, template.metadata.name)
    icon = shown_icon(spec.icon, icon_origins)
    return TemplateCard(template.metadata.name, title, spec.description, icon, tuple(chips))


def _matches(card: TemplateCard, words: list[str]) -> bool:
    text = f"{card.title} {card.name} {card.description}".casefold()
    return all(word in text for word in words)


class CataloguePages(PortalPages):
    """The catalogue, and the start form of each template."""

    def routes(self) -> list[Route]:
        return [
            self._get("/catalogue", self.catalogue),
            self._get("/catalogue/{template}", self.start_form),
            self._post("/catalogue/{template}", self.start),
        ]

    async def catalogue(self, request: Request, user: User) -> Response:
        """GET /catalogue: templates that this user may start; `q` narrows them down."""
        asked = request.query_params.get("q", "").strip()[:100]
        words = asked.casefold().split()
        mine = templates_for(self._services, user)
        cards = [template_card(template, self._settings.icon_origins) for template in mine]
        shown = [card for card in cards if _matches(card, words)]
        last = await self._last_choices(user, mine)
        return self._page(
            request,
            user,
            "catalogue.html",
            here="catalogue",
            cards=shown,
            last=last,
            asked=asked,
            startable=mine,
        )

    async def start_form(self, request: Request, user: User) -> Response:
        """GET /catalogue/{template}: the form for a desktop of one template."""
        response = await self._form(request, user)
        # Creating a volume takes seconds, which the user spends with the form.
        response.background = BackgroundTask(
            self._services.homes_ahead.make, user, request.path_params["template"]
        )
        return response

    async def start(self, request: Request, user: User, form: Form) -> Response:
        """POST /catalogue/{template}: start a desktop, then open it, or its page here.

        Without a name it comes from a button *Start*, and is what the form offers to start. A
        desktop that would have to wait for files in use is not started so: the form says it.
        """
        template = self._template(request, user)
        if "name" not in form:
            form = await self._first_choice(template, user) | form
            if form["home"] == "yes" and self._home_used_by(template, user):
                return RedirectResponse(f"/catalogue/{template.metadata.name}", 303)
        try:
            session = await self._services.actions.start(
                user, session_request(form, template, user)
            )
        except ActionDenied as why:
            return await self._form(request, user, form, why.sentence, why.status)
        except ValueError as why:
            return await self._form(request, user, form, str(why), 422)
        name = session.metadata.name
        if form.get("then") == "stay":
            return done(f"/desktops/{name}", "start", name)
        return RedirectResponse(f"/desktops/{name}/open", 303)

    async def _form(
        self,
        request: Request,
        user: User,
        typed: Mapping[str, str] | None = None,
        error: str = "",
        status: int = 200,
    ) -> Response:
        template = self._template(request, user)
        first = await self._first_choice(template, user)
        return self._page(
            request,
            user,
            "start.html",
            status=status,
            here="catalogue",
            card=template_card(template, self._settings.icon_origins),
            offer=offer_of(template, self._settings.cluster),
            # A browser does not send a box that is not ticked: an absent field of a sent form is
            # empty, not a default.
            typed=first if typed is None else {name: typed.get(name, "") for name in first},
            error=error,
            home_used_by=self._home_used_by(template, user),
            recording_note=recording_note(template),
        )

    async def _first_choice(self, template: VDITemplate, user: User) -> dict[str, str]:
        names = (session.metadata.name for session in self._cluster.sessions.values())
        last = (await self._last_choices(user, [template]))[template.metadata.name]
        usual = first_choice(template, self._settings.cluster, user, names)
        return usual | {field: choice.value for field, choice in last.items()}

    async def _last_choices(
        self, user: User, templates: Iterable[VDITemplate]
    ) -> dict[str, dict[str, Choice]]:
        """`last_choice` of each template, by its name. Without the database there are none."""
        last: dict[str, dict[str, str]] = {}
        with suppress(DatabaseUnavailableError):
            acts = await self._services.audit.entries(
                limit=_LAST_STARTS, action="session.start", actor=user.email, owner=user.email
            )
            last = {
                act.detail["template"]: act.detail for act in reversed(acts) if act.outcome == DONE
            }
        names = {template.metadata.name: template for template in templates}
        cluster = self._settings.cluster
        return {
            name: last_choice(template, cluster, user, last.get(name, {}))
            for name, template in names.items()
        }

    def _home_used_by(self, template: VDITemplate, user: User) -> list[str]:
        return sharing_home(self._services.subscriptions.sessions_with(user), template, user)

    def _template(self, request: Request, user: User) -> VDITemplate:
        name = request.path_params["template"]
        if template := self._cluster.templates_for(user).get(name):
            return template
        raise ActionDenied("NotFound", f"There is no template {name!r} that you can start.")
