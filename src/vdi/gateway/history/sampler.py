"""Notes what is there besides sessions and is paid for: free places of pools every five minutes, homes once a day."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.desktop_size import size_of
from vdi.gateway.limits import home_bytes
from vdi.gateway.store.base import Database, DatabaseUnavailableError
from vdi.gateway.store.usage import HomeDay, PoolPlaces, add_samples
from vdi.gateway.users import normal_user

log = logging.getLogger(__name__)

STEP = timedelta(minutes=5)
"""From one look at the pools to the next; each counts for as long."""
_DAY = timedelta(days=1)
_GIB = 1 << 30


class UsageSampler:
    """`run` once, when the cluster is synced. Replicas may do it at once: what the one has written is there."""

    def __init__(self, *, database: Database, cluster: ClusterCache, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._cluster = cluster
        self._clock = clock
        self._day: datetime | None = None
        self._written: set[str] = set()  # uids of the homes that are written for that day

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            try:
                await self.sample()
            except DatabaseUnavailableError as error:
                log.warning("free places of pools and homes are not counted: %s", error)
            now = self._clock()
            await asyncio.sleep((begin_of(now, STEP) + STEP - now).total_seconds())

    async def sample(self) -> None:
        """Write what is there now. Raises DatabaseUnavailableError."""
        now = self._clock()
        if self._day != begin_of(now, _DAY):
            self._day, self._written = begin_of(now, _DAY), set()
        places, homes = self._places(begin_of(now, STEP)), self._homes(self._day)
        if not places and not homes:
            return
        async with self._database.begin() as connection:
            await add_samples(self._database, connection, places, homes)
        self._written |= {home.uid for home in homes}

    def _places(self, at: datetime) -> list[PoolPlaces]:
        found = []
        for pool in self._cluster.pools.values():
            number = pool.status.ready + pool.status.starting
            template = self._cluster.template(pool.spec.template)
            if not number or template is None:
                continue
            size = size_of(template)
            found.append(
                PoolPlaces(
                    at=at,
                    pool=pool.metadata.name,
                    template=pool.spec.template,
                    places=number,
                    gpus=number * size.gpus,
                    cpu=number * (size.cpu or 0.0),
                    memory_gib=number * (size.memory_gib or 0.0),
                )
            )
        return found

    def _homes(self, day: datetime) -> list[HomeDay]:
        return [
            HomeDay(
                day=day,
                uid=home.uid,
                owner=normal_user(home.user),
                template=home.template,
                gib=home_bytes(home) / _GIB,
            )
            for home in self._cluster.all_homes()
            if home.uid not in self._written
        ]


def begin_of(moment: datetime, step: timedelta) -> datetime:
    """The begin of the step that the moment is in; steps count from midnight (UTC)."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (moment - midnight) // step * step
