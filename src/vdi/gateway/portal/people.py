"""Page `/admin/people`: everyone who has an account, a desktop, files or a token, with limits and
use; and the steps when one of them leaves.
"""

import shlex
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.gateway.current_use import uses
from vdi.gateway.denied import ActionDenied, invalid, refused_address
from vdi.gateway.history.usage import Month, Usage
from vdi.gateway.login.local_users import UsersUnavailableError
from vdi.gateway.portal.pages import Form, PortalPages, done_message, page_number, paged
from vdi.gateway.rights import User
from vdi.gateway.store.audit import Act, NotAuditedError
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.logins import count_credentials
from vdi.session.actions import Unshare
from vdi.session.homes import HomeSummary
from vdi.session.users import AddressError, check_address, same_user

_PAGE_SIZE = 100
# Steps when a person leaves: the button, and what it does.
_STEPS = {
    "sign-out": ("Sign out", "Ends logins, API tokens and open pictures. Desktops keep running."),
    "end-access": (
        "Take everything away",
        "Signs out, ends the desktops and the access to those of others. Files are kept.",
    ),
    "delete-files": ("Delete the files", "All files in the homes are deleted permanently."),
}


@dataclass(frozen=True, slots=True)
class _Person:
    email: str
    # Names of the desktops: their own, and those that others share with them.
    own: list[str]
    shared: list[str]
    homes: list[HomeSummary]

    @property
    def address(self) -> str:
        return "/admin/people?" + urlencode({"user": self.email})


class PeoplePages(PortalPages):
    """Pages about people, for administrators only."""

    def routes(self) -> list[Route]:
        return [
            self._get("/admin/people", self.people, admin=True),
            self._post("/admin/people", self.act, admin=True),
        ]

    async def people(
        self, request: Request, user: User, *, status: int = 200, error: str = ""
    ) -> Response:
        """GET /admin/people: everyone, who uses most GPUs first; with `user` this person alone."""
        query, limits, month = request.query_params, self._services.limits, Month.of(self._clock())
        accounts, hours_known = await self._accounts(), True
        person = self._find(request) if query.get("user") else None
        used: dict[str, Usage] = {}
        try:
            report = await self._services.history.usage(month, self._clock())
            used = {usage.name: usage for usage in report.users}
        except DatabaseUnavailableError:
            hours_known = False
        asked = person.email if person else query.get("q", "").strip()[:254]
        rows = []
        for row in uses(self._cluster, limits, used, accounts).items():
            if row[0] == asked or (not person and asked.casefold() in row[0]):
                rows.append(row)
        rows.sort(key=lambda row: (-row[1].gpus.used, -row[1].sessions.used, row[0]))
        return self._page(
            request,
            user,
            "admin_people.html",
            here="admin",
            tab="people",
            status=status,
            error=error,
            done=done_message(request),
            rows=paged(rows, page_number(query.get("page", "")), _PAGE_SIZE),
            accounts=accounts,
            asked=asked,
            person=person,
            steps=_STEPS,
            quoted=shlex.quote(asked),
            month=str(month),
            hours_known=hours_known,
            default=limits.default,
            groups=sorted(limits.groups.items()),
            address=lambda number: "/admin/people?" + urlencode({"q": asked, "page": number}),
        )

    async def act(self, request: Request, user: User, form: Form) -> Response:
        """POST /admin/people: one of the steps, after a question."""
        person, action = self._find(request), form.get("action", "")
        if action not in _STEPS:
            raise invalid("action", action, f"one of {', '.join(_STEPS)}")
        if form.get("confirmed") != "yes":
            names = {
                "end-access": person.own + person.shared,
                "delete-files": [home.name for home in person.homes],
            }
            label, consequence = _STEPS[action]
            return self._confirm(
                request,
                user,
                here="admin",
                path=person.address,
                back=person.address,
                question=f"{label}: {person.email}?",
                consequence=consequence,
                label=label,
                dangerous=action != "sign-out",
                names=names.get(action, ()),
                fields={"action": action, "confirmed": "yes"},
            )
        refused = []
        for step in self._steps(user, person, action):
            try:
                await step
            except ActionDenied as why:
                refused.append(why.sentence)
        if refused:
            return await self.people(request, user, status=409, error=" ".join(refused))
        done = urlencode({"done": action, "name": person.email})
        return RedirectResponse(f"{person.address}&{done}", 303)

    def _steps(self, user: User, person: _Person, action: str) -> Iterator[Awaitable[object]]:
        actions = self._services.actions
        if action == "delete-files":
            for home in person.homes:
                yield actions.delete_home(user, home.name, owner=person.email)
            return
        yield self._sign_out(user, person.email)
        if action == "end-access":
            for name in person.own:
                yield actions.end(user, name)
            for name in person.shared:
                yield actions.act(user, name, Unshare(person.email))

    async def _sign_out(self, user: User, email: str) -> None:
        act = Act(actor=user.email, action="login.end_all", target=email, owner=email)
        try:
            async with self._services.audit.act(act, closed=True):
                await self._services.sign_out.end_everything(email, tokens=True)
        except NotAuditedError as error:
            raise ActionDenied("Unavailable", str(error)) from error

    async def _accounts(self) -> dict[str, Counter[str]]:
        """What each person signs in with: `password`, and what the database has."""
        accounts = await count_credentials(self._services.context.database, self._clock())
        try:
            for email in await self._services.local.read():
                accounts.setdefault(email, Counter())["password"] = 1
        except UsersUnavailableError as error:
            raise ActionDenied("Unavailable", f"{error}.") from error
        return accounts

    def _find(self, request: Request) -> _Person:
        try:
            email = check_address(request.query_params.get("user", ""))
        except AddressError as error:
            raise refused_address(error) from error
        own, shared = [], []
        for session in self._cluster.sessions.values():
            if same_user(session.spec.user, email):
                own.append(session.metadata.name)
            elif any(same_user(access.user, email) for access in session.spec.access):
                shared.append(session.metadata.name)
        return _Person(email, own, shared, self._cluster.homes_of(email))
