"""The portal as a component of the gateway: its routes."""

from collections.abc import Sequence

from starlette.routing import BaseRoute, Route

from vdi.gateway.component import Component
from vdi.gateway.portal.admin.pages import AdminPages
from vdi.gateway.portal.catalogue import CataloguePages
from vdi.gateway.portal.desktops import DesktopPages
from vdi.gateway.portal.events import PageEvents
from vdi.gateway.portal.history import HistoryPages
from vdi.gateway.portal.homes import HomePages
from vdi.gateway.portal.services import PortalServices
from vdi.gateway.web.assets import asset_routes


class Portal(Component):
    """What people see in the browser."""

    def __init__(self, services: PortalServices) -> None:
        self.services = services

    def portal_routes(self) -> Sequence[BaseRoute]:
        """All pages, the live stream, and the files they need."""
        return (
            *asset_routes(self.services.context.settings.brand, "/static"),
            Route("/events", PageEvents(self.services).events, methods=["GET"]),
            *DesktopPages(self.services).routes(),
            *CataloguePages(self.services).routes(),
            *HistoryPages(self.services).routes(),
            *HomePages(self.services).routes(),
            *AdminPages(self.services).routes(),
        )
