"""Reads of a cluster for checks: each kind in one list, and what cannot be read with the missing
permission.

`vdi doctor` and the checklists of Kasm read with it. Writes nothing.
"""

import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vdi.findings.model import Remedy
from vdi.kube.errors import (
    BadRequest,
    Forbidden,
    Gone,
    NotFound,
    ServerError,
    TooManyRequests,
    UnexpectedAnswer,
)
from vdi.kube.resource import SECRETS, Resource
from vdi.kube.transport import Client
from vdi.snapshot.model import UNKNOWN_ACCOUNT, Unreadable, grant_commands
from vdi.snapshot.objects import read_object

# Objects of a page, and most objects of a kind: the memory of the gateway is limited.
_PAGE = 5_000
_MOST_OBJECTS = 100_000
_UNREADABLE = (ServerError, TooManyRequests, BadRequest, Gone, UnexpectedAnswer, TimeoutError)


@dataclass
class Reader:
    """The objects that have been read so far. `command`: begins the names of roles that remedies
    create.
    """

    client: Client
    command: str
    # Most requests besides logs; 0: as many as are needed.
    budget: int = 0
    decode: Callable[[str, msgspec.Raw], Any] = read_object
    # By plural.
    objects: dict[str, list[Any]] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    # By the name in `needs` of checks.
    unread: dict[str, Unreadable] = field(default_factory=dict)
    requests: int = 0

    async def all_of(
        self,
        kind: Resource,
        namespace: str | None = None,
        *,
        field_selector: str | None = None,
        note: str = "",
    ) -> bool:
        """List a kind, whose pages are so large that most clusters need one."""

        async def read() -> None:
            objects: list[Any] = []
            pages = self.client.pages(
                kind, namespace=namespace, field_selector=field_selector, size=_PAGE
            )
            async with aclosing(pages):
                async for page in pages:
                    if len(objects) >= _MOST_OBJECTS:
                        raise BadRequest(422, "TooMany", f"there are more than {_MOST_OBJECTS}")
                    objects += [self.decode(kind.plural, item) for item in page.items]
            self.objects.setdefault(kind.plural, []).extend(objects)

        return await self.attempt(kind, read, verb="list", namespace=namespace, note=note)

    async def one(
        self, kind: Resource, name: str, namespace: str | None = None, *, note: str = ""
    ) -> bool:
        """Read one object. One that does not exist is no problem."""

        async def read() -> None:
            item = await self.client.get(kind, name, namespace=namespace, into=msgspec.Raw)
            self.objects.setdefault(kind.plural, []).append(self.decode(kind.plural, item))

        return await self.attempt(kind, read, namespace=namespace, note=note, name=name)

    async def attempt(
        self,
        kind: Resource,
        read: Callable[[], Awaitable[None]],
        *,
        namespace: str | None,
        verb: str = "get",
        note: str = "",
        name: str = "",
        subresource: str = "",
    ) -> bool:
        """Whether it was read, or is known not to exist. Otherwise `note` (default: the plural) is
        unreadable.

        Logs do not count as requests. One that is not there yet, or whose node does not respond, is
        what checks report.
        """
        plural = f"{kind.plural}{subresource}"
        note = note or plural
        if not subresource:
            if self.budget and self.requests >= self.budget:
                reason = f"{plural} were not read: a run makes at most {self.budget} requests."
                remedy = Remedy("Check one namespace at a time: vdi doctor --namespace.")
                self.unread[note] = Unreadable(note, reason, remedy)
                return False
            self.requests += 1
        try:
            await read()
        except NotFound as error:
            if error.api_missing and not subresource:
                self.absent.add(plural)
        except Forbidden as error:
            self.unread[note] = self._forbidden(
                note, error, kind, verb, subresource, namespace, name
            )
            return False
        except _UNREADABLE as error:
            if not subresource:
                remedy = Remedy.run(f"kubectl get {plural} -A")
                self.unread[note] = Unreadable(note, f"{plural} cannot be read: {error}", remedy)
            return False
        return True

    def _forbidden(
        self,
        note: str,
        error: Forbidden,
        kind: Resource,
        verb: str,
        subresource: str,
        namespace: str | None,
        name: str,
    ) -> Unreadable:
        """The missing permission, its account, and the commands that grant it."""
        match = re.search(r'User "([^"]+)"', error.message)
        who = match[1] if match else UNKNOWN_ACCOUNT
        where = "in all namespaces" if kind.namespaced else "in the cluster"
        if namespace:
            where = f"in namespace {namespace}"
        group = f".{kind.group}" if kind.group else ""
        commands = grant_commands(
            self.command,
            who,
            verb,
            f"{kind.plural}{group}{subresource}",
            namespace=namespace or "",
            # A role for all Secrets of a namespace would include the passwords of desktops.
            resource_name=name if kind is SECRETS else "",
        )
        remedy = Remedy(f"Create this role, and bind it to {who}.", commands)
        return Unreadable(note, f"{who} may not {verb} {kind.plural}{subresource} {where}.", remedy)
