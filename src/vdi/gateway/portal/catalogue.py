"""The catalogue: what can be started, and the form that starts it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.api.template import VDITemplate
from vdi.gateway.denied import ActionDenied
from vdi.gateway.portal.desktop_view import template_title
from vdi.gateway.portal.pages import PortalPages, done
from vdi.gateway.portal.services import PortalServices
from vdi.gateway.portal.start_form import first_choice, offer_of, session_request, sharing_home
from vdi.gateway.rights import may_use
from vdi.gateway.users import User
from vdi.gateway.web.icons import shown_icon
from vdi.gateway.web.template_filters import byte_size, cpus


@dataclass(frozen=True, slots=True)
class TemplateCard:
    """One template, ready to be shown."""

    name: str
    title: str
    description: str
    icon: str
    chips: tuple[str, ...]


def templates_for(portal: PortalServices, user: User) -> list[VDITemplate]:
    """The templates that this person may use, by what people call them."""
    mine = [template for template in portal.context.cluster.templates.values() if may_use(template, user)]
    return sorted(
        mine, key=lambda template: (template_title(template, template.metadata.name).casefold(), template.metadata.name)
    )


def template_card(template: VDITemplate, icon_origins: Collection[str]) -> TemplateCard:
    """What people see of a template."""
    resources, spec = template.spec.resources, template.spec
    gpus = resources.default_gpu
    chips = [f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else "No GPU", cpus(resources.default_cpu)]
    chips.append(f"{resources.default_memory} memory".replace("Gi ", " GiB ").replace("Mi ", " MiB "))
    if resources.default_ephemeral_storage:
        chips.append(f"{byte_size(resources.default_ephemeral_storage)} local disk")
    chips.append("keeps files" if spec.persistence.enabled else "files are not kept")
    title = template_title(template, template.metadata.name)
    icon = shown_icon(spec.icon, icon_origins)
    return TemplateCard(template.metadata.name, title, spec.description, icon, tuple(chips))


def _matches(card: TemplateCard, words: list[str]) -> bool:
    text = f"{card.title} {card.name} {card.description}".casefold()
    return all(word in text for word in words)


class CataloguePages(PortalPages):
    """Pages under `/catalogue`."""

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/catalogue", self.catalogue, methods=["GET"]),
            Route("/catalogue/{template}", self.start_form, methods=["GET"]),
            Route("/catalogue/{template}", self.start, methods=["POST"]),
        ]

    async def catalogue(self, request: Request) -> Response:
        """What this person may start; `q` narrows it down."""
        user = await self._portal.guard.require(request)
        asked = request.query_params.get("q", "").strip()[:100]
        words = asked.casefold().split()
        mine = templates_for(self._portal, user)
        origins = self._portal.context.settings.icon_origins
        cards = [card for card in (template_card(template, origins) for template in mine) if _matches(card, words)]
        return await self._page(
            request, user, "catalogue.html", here="catalogue", cards=cards, asked=asked, there_are_any=bool(mine)
        )

    async def start_form(self, request: Request) -> Response:
        """The form for a desktop of one template."""
        user = await self._portal.guard.require(request)
        response = await self._form(request, user)
        if template := self._template(user, request.path_params["template"]):
            response.background = BackgroundTask(self._portal.homes_ahead.make, user, template.metadata.name)
        return response

    async def start(self, request: Request) -> Response:
        """Start it, and on to the desktop itself, or to its page here."""
        user, form = await self._posted(request)
        template = self._template(user, request.path_params["template"])
        if template is None:
            return self._no_template(request, user)
        try:
            session = await self._portal.actions.start(user, session_request(form, template, user))
        except ActionDenied as why:
            return await self._form(request, user, form, why.sentence, why.status)
        except ValueError as why:
            return await self._form(request, user, form, str(why), 422)
        name = session.metadata.name
        if form.get("then") == "stay":
            return done(f"/desktops/{name}", "start", name)
        return RedirectResponse(f"/desktops/{name}/open", 303)

    async def _form(
        self, request: Request, user: User, typed: Mapping[str, str] | None = None, error: str = "", status: int = 200
    ) -> Response:
        template = self._template(user, request.path_params["template"])
        if template is None:
            return self._no_template(request, user)
        context = self._portal.context
        names = (session.metadata.name for session in context.cluster.sessions.values())
        first = first_choice(template, context.settings.cluster, user, names)
        # A box that is not ticked is not sent: what was typed stands for itself then.
        shown = first if typed is None else {name: typed.get(name, "") for name in first}
        return await self._page(
            request,
            user,
            "start.html",
            status=status,
            here="catalogue",
            card=template_card(template, context.settings.icon_origins),
            offer=offer_of(template, self._portal.context.settings.cluster),
            typed=shown,
            error=error,
            home_used_by=sharing_home(self._portal.subscriptions.sessions_with(user), template, user),
        )

    def _template(self, user: User, name: str) -> VDITemplate | None:
        found = self._portal.context.cluster.template(name)
        return found if found is not None and may_use(found, user) else None

    def _no_template(self, request: Request, user: User) -> Response:
        return self._renderer.render(
            request,
            "error.html",
            status=404,
            user=user,
            title="This desktop is not in your catalogue",
            sentence=f"There is no template {request.path_params['template']!r} that you can start.",
            back="/catalogue",
            back_label="Catalogue",
        )
