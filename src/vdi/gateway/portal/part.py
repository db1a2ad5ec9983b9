"""The portal as a part of the gateway: its routes, and what it remembers between two requests."""

from collections.abc import Sequence

from starlette.routing import BaseRoute, Route

from vdi.gateway.parts import Part
from vdi.gateway.portal import admin, catalogue, desktops, history
from vdi.gateway.portal.assets import asset_routes
from vdi.gateway.portal.doctor import DoctorRuns
from vdi.gateway.portal.events import events
from vdi.gateway.portal.live import Live
from vdi.gateway.world import World


class Portal(Part):
    """What people see. Everything it remembers is lost at a restart, and nobody misses it."""

    def __init__(self, world: World) -> None:
        self.live = Live(world)
        self.doctor = DoctorRuns()
        self.gpu_total: int | None = None
        """GPUs (or shares of one) in the cluster when an administrator looked last; for figures that are live."""

    def portal_routes(self) -> Sequence[BaseRoute]:
        """All pages, the live stream, and the files they need."""
        return (
            *asset_routes("/static"),
            Route("/events", events, methods=["GET"]),
            *desktops.ROUTES,
            *catalogue.ROUTES,
            *history.ROUTES,
            *admin.ROUTES,
        )
