"""`/edge/verify`: Traefik's forwardAuth, before each request to a desktop and each WebSocket
handshake.

200            allowed: with the desktop's own credentials in place of the browser's, and a new token when one is due
302            a browser's page load: to the login, the waiting page, the test of the transport, or Selkies' page
401, 403, 503  everything else, with one line of text
"""

import base64
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
from starlette.types import Receive, Scope, Send

from vdi.api.session import FULL_CONTROL, VDISession
from vdi.api.template import Protocol, VDITemplate
from vdi.gateway.component import GatewayContext
from vdi.gateway.desktop.agent import DesktopKey, DesktopKeyError
from vdi.gateway.edge.authorizer import Admitted, Authorizer
from vdi.gateway.edge.headers import (
    MARK,
    AmbiguousError,
    desktop_cookie,
    is_foreign,
    is_navigation,
    is_service_worker,
    quoted,
    read_headers,
    that_fit,
    without_ours,
)
from vdi.gateway.edge.selkies import find_first_page, may_request, page_of
from vdi.gateway.edge.token_tables import TokenTablePublisher
from vdi.gateway.edge.tokens import Claims
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.web.middleware import TRANSPORT_HEADERS
from vdi.kube.errors import Forbidden, KubeError, NotFound
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client
from vdi.session.credentials import grant_token, read_basic_auth, subprotocols
from vdi.session.recording import refuse_picture
from vdi.session.template_image import refuse_view_only, takes_tokens

log = logging.getLogger(__name__)

# A handshake waits for so long until the desktop knows its grant: Selkies closes a connection with
# an unknown token.
HANDSHAKE_SECONDS = 1.5
# Here Selkies takes the token from the page's first message, knows no subprotocol, and logs those
# that are offered.
SIGNALLING = "/api/webrtc/"
LONGEST_URI = 16384
# A Secret with basic-auth credentials that has changed may be used as it was for so long.
KEPT_SECONDS = 60.0
_MARK = (MARK.lower().encode(), b"1")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_FRESH = (b"cache-control", b"no-store")
_TRANSPORT = tuple(
    (name.lower().encode(), value.encode()) for name, value in TRANSPORT_HEADERS.items()
)
_NO_SERVICE_WORKERS = (
    "Service workers are not allowed on this desktop, because they would stay in the browser after"
    " the desktop has ended. If its image needs them, an administrator sets spec.serviceWorkers:"
    " true in the template."
)
_NOT_CONFIRMED = (
    "View only is not possible now: the desktop has not confirmed that it restricts you to viewing."
    " Its page says why when that does not change."
)
# Connections of one page that are compared: four gaps of the same length are no chance.
_KEPT = 5
_ALIKE_SECONDS = 5.0
# Gaps that a proxy's limit causes; a page that fails by itself reconnects sooner.
_SHORTEST, _LONGEST = 20.0, 900.0
_MAX_PAGES = 1000

Headers = Sequence[tuple[bytes, bytes]]


class BasicAuthError(Exception):
    """Raised when the credentials cannot be read now; says why, and shows nothing of them."""


class _Secret(msgspec.Struct):
    data: dict[str, str] = {}


class BasicAuth:
    """Authorization headers for images with basic auth, from the Secrets that templates name.
    `clock`: monotonic.
    """

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, bytes]] = {}

    async def get(self, namespace: str, name: str) -> bytes:
        """The header's value; the last one while the Secret cannot be read. Raises BasicAuthError
        without one.
        """
        known = self._known.get((namespace, name))
        if known and self._clock() - known[0] < KEPT_SECONDS:
            return known[1]
        try:
            secret = await self._client.get(SECRETS, name, namespace=namespace, into=_Secret)
            username, password = read_basic_auth(secret.data)
        except NotFound as error:
            raise BasicAuthError(
                f"the Secret {name!r} does not exist in namespace {namespace}"
            ) from error
        except KubeError as error:
            if known:
                return known[1]
            todo = ""
            if isinstance(error, Forbidden):
                todo = "; list it in the chart's gateway.basicAuthSecrets"
            raise BasicAuthError(f"the Secret {name!r} cannot be read: {error}{todo}") from error
        except ValueError as error:
            raise BasicAuthError(f"the Secret {name!r} {error}") from error
        value = b"Basic " + base64.b64encode(username + b":" + password)
        self._known[namespace, name] = self._clock(), value
        return value


class DisconnectDetector:
    """Detects WebSockets that a proxy in front of Traefik cuts again and again at the same age.
    Times are monotonic.

    The gateway sees no byte of a desktop, but each new connection asks it first, and a page whose
    connection was cut opens the next one at once.
    """

    def __init__(self) -> None:
        # Times of the last connections by session, grant and path.
        self._opened: OrderedDict[tuple[str, str, str], deque[float]] = OrderedDict()

    def opened(self, session: str, grant: str, path: str, now: float) -> None:
        key = session, grant, path
        self._opened.setdefault(key, deque(maxlen=_KEPT)).append(now)
        self._opened.move_to_end(key)
        if len(self._opened) > _MAX_PAGES:
            self._opened.popitem(last=False)

    def problems(self, now: float) -> Iterator[str]:
        """One line for each session whose connections are being cut now."""
        reported = set()
        for (session, _, _), times in self._opened.items():
            gaps = [later - earlier for earlier, later in zip(times, list(times)[1:], strict=False)]
            if len(gaps) < _KEPT - 1 or max(gaps) - min(gaps) > _ALIKE_SECONDS:
                continue
            usual = sum(gaps) / len(gaps)
            goes_on = now - times[-1] <= usual + _ALIKE_SECONDS
            if _SHORTEST <= usual <= _LONGEST and goes_on and session not in reported:
                reported.add(session)
                yield f"websockets of {session}: they are disconnected every {usual:.0f} s"


@dataclass(frozen=True, slots=True)
class ForwardAuthResponse:
    """The response to Traefik. `outcome`, for the metrics: allowed, renewed, sent (elsewhere) or
    refused.
    """

    status: int
    outcome: str
    headers: Headers = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class ForwardAuthRequest:
    """The browser's request, as Traefik describes it. `protocols`: WebSocket subprotocols that it
    offers.
    """

    origin: str
    method: str
    path: str
    uri: str
    navigation: bool
    handshake: bool
    service_worker: bool
    cookies: str
    protocols: str


@dataclass(eq=False, kw_only=True)
class Verify:
    """The ASGI app of the route, without a framework: no other route is called so often."""

    context: GatewayContext
    authorizer: Authorizer
    key: DesktopKey
    logins: BasicAuth
    tables: TokenTablePublisher
    ready: Callable[[], bool]
    handshake_seconds: float = HANDSHAKE_SECONDS
    disconnects: DisconnectDetector = field(default_factory=DisconnectDetector, init=False)

    def __post_init__(self) -> None:
        labels = self.context.metrics.verifications.labels
        self._outcomes = {name: labels(name) for name in ("allowed", "renewed", "sent", "refused")}

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        answer = await self._answer(scope)
        body = f"{answer.text}\n".encode() if answer.text else b""
        headers = [(b"content-length", str(len(body)).encode()), *answer.headers]
        if answer.status != 200:
            headers += (_MARK, _FRESH, _TEXT, *_TRANSPORT)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self._outcomes[answer.outcome].inc()
        self.context.metrics.verify_seconds.observe(time.perf_counter() - began)

    async def _answer(self, scope: Scope) -> ForwardAuthResponse:
        try:
            headers = read_headers(scope["headers"])
        except AmbiguousError as error:
            return _refused(400, f"This request cannot be processed: {error}.")
        label = self.authorizer.hosts.label(headers.get(b"x-forwarded-host", b"").decode("latin-1"))
        uri = headers.get(b"x-forwarded-uri", b"").decode("latin-1")
        if label is None or not uri.startswith("/") or len(uri) > LONGEST_URI:
            return _refused(
                400,
                "This request cannot be processed: it is not for the host or a path of a desktop.",
            )
        method = headers.get(b"x-forwarded-method", b"").decode("latin-1")
        request = ForwardAuthRequest(
            origin=self.context.settings.url(self.context.settings.host(label)),
            method=method,
            path=uri.partition("?")[0],
            uri=uri,
            navigation=is_navigation(method, headers),
            handshake=b"sec-websocket-key" in headers,
            service_worker=is_service_worker(headers),
            cookies=headers.get(b"cookie", b"").decode("latin-1"),
            protocols=headers.get(b"sec-websocket-protocol", b"").decode("latin-1"),
        )
        if is_foreign(request.path, headers, request.origin, navigation=request.navigation):
            return _refused(403, "This request came from a page of another site.")
        if not self.ready():
            wait = self.context.database_wait
            if wait.since and request.navigation:
                return self._way_in(request)  # a path of the gateway, whose page says so
            return _later(wait.sentence)
        session = self.context.cluster.by_host(label)
        try:
            admitted = None
            if session:
                admitted = await self.authorizer.admit(session, request.cookies)
        except DatabaseUnavailableError as error:
            log.warning("no one is let in without a valid token: %s", error)
            return _later("The gateway's database does not respond.")
        if session is None or admitted is None:
            return self._way_in(request)
        return await self._let_in(request, session, admitted)

    async def _let_in(
        self, request: ForwardAuthRequest, session: VDISession, admitted: Admitted
    ) -> ForwardAuthResponse:
        """The response to a visitor with a grant. The order counts: what no one may do, where a page
        load leads, whether there is a picture, and only then the desktop's credentials.
        """
        template = self.context.cluster.template(session.spec.template)
        if refusal := _refuse_request(request, admitted.claims, template):
            return _refused(403, refusal)
        renewed: Headers = ()
        if admitted.token:
            renewed = (desktop_cookie(admitted.token, self.context.settings.token_seconds),)
        if request.navigation:
            grant_id, now = admitted.claims.gid, self.context.clock()
            page = find_first_page(session, template, grant_id=grant_id, uri=request.uri, now=now)
            if page:
                return self._sent(request, page, renewed)
        if session.spec.suspended:
            return _later("This desktop is suspended.")
        if hidden := refuse_picture(session):
            return _later(hidden)
        if template is not None and not takes_tokens(template.spec):
            return await self._pass_to_image(request, session, template, renewed)
        return await self._pass_to_selkies(request, session, admitted.claims, renewed)

    async def _pass_to_image(
        self,
        request: ForwardAuthRequest,
        session: VDISession,
        template: VDITemplate,
        renewed: Headers,
    ) -> ForwardAuthResponse:
        """To an image that takes no tokens: with its password, which no browser ever has."""
        passed = [*renewed, *_cookies_to_pass(request)]
        if secret := template.spec.basic_auth_secret:
            try:
                password = await self.logins.get(session.metadata.namespace, secret.name)
            except BasicAuthError as error:
                log.warning("session %s cannot be opened: %s", session.metadata.name, error)
                return _later(f"The password that this desktop needs is missing: {error}.")
            passed.append((b"authorization", password))
        if request.handshake and request.protocols:
            passed.append((b"sec-websocket-protocol", request.protocols.encode("latin-1")))
        return _allowed(passed, renewed)

    async def _pass_to_selkies(
        self, request: ForwardAuthRequest, session: VDISession, claims: Claims, renewed: Headers
    ) -> ForwardAuthResponse:
        """To Selkies, with the token of the grant, once the desktop knows the grant."""
        name = session.metadata.name
        if not await self._is_confirmed(request, session, claims):
            if request.navigation:
                page = f"/.vdi/wait?next={quoted(page_of(request.uri))}"
                return self._sent(request, page, renewed)
            log.info("session %s: a viewer was refused: the desktop has not confirmed them", name)
            return _later(_NOT_CONFIRMED)
        try:
            master = (await self.key.tokens(session)).password
        except DesktopKeyError as error:
            log.warning("session %s cannot be opened: %s", name, error)
            return _later("The address of this desktop is not known yet.")
        token = grant_token(master, claims.gid)
        passed = [*renewed, *_cookies_to_pass(request)]
        passed.append((b"authorization", f"Bearer {token}".encode()))
        if request.handshake:
            self.disconnects.opened(name, claims.gid, request.path, time.monotonic())
            if not request.path.startswith(SIGNALLING):
                passed.append((b"sec-websocket-protocol", subprotocols(token).encode()))
        return _allowed(passed, renewed)

    async def _is_confirmed(
        self, request: ForwardAuthRequest, session: VDISession, claims: Claims
    ) -> bool:
        """Whether the desktop's token table lets this request pass."""
        # Only the desktop restricts viewers to the picture, and only after it has taken a table
        # that names them: until then nothing of theirs passes. Owners and collaborators may do
        # everything anyway. A handshake of theirs waits for the table, with which their connection
        # can be closed later, and passes without it: an image that takes no table works for them.
        is_viewer = claims.role not in FULL_CONTROL
        if not request.handshake and (not is_viewer or self.tables.has_taken(session, claims.gid)):
            return True
        confirmed = await self.tables.posted(session.metadata.uid, self.handshake_seconds)
        return claims.gid in confirmed or not is_viewer

    def _way_in(self, request: ForwardAuthRequest) -> ForwardAuthResponse:
        if request.navigation:
            return self._sent(request, f"/.vdi/start?next={quoted(page_of(request.uri))}", ())
        return _refused(
            401, "You have not opened this desktop, or you no longer have access to it."
        )

    def _sent(self, request: ForwardAuthRequest, where: str, more: Headers) -> ForwardAuthResponse:
        # Absolute: Traefik would resolve a path against this listener's own address.
        location = (b"location", f"{request.origin}{where}".encode("latin-1"))
        return ForwardAuthResponse(302, "sent", (location, *more))


def _refuse_request(
    request: ForwardAuthRequest, claims: Claims, template: VDITemplate | None
) -> str:
    """The reason why this role may not send this request to a desktop; empty: it may."""
    if request.service_worker and not (template and template.spec.service_workers):
        return _NO_SERVICE_WORKERS
    if claims.role not in FULL_CONTROL and (why := refuse_view_only(template)):
        return why
    # The paths are Selkies' own. In an image's own page the same path may be anything.
    serves_web = template is not None and template.spec.protocol is Protocol.WEB
    if not serves_web and not may_request(claims.role, request.method, request.path):
        return f"The role {claims.role} does not allow this on the desktop."
    return ""


def _cookies_to_pass(request: ForwardAuthRequest) -> Headers:
    """The browser's cookies for the desktop, without the gateway's own."""
    cookies = that_fit(without_ours(request.cookies))
    if cookies:
        return ((b"cookie", cookies.encode("latin-1")),)
    return ()


def _allowed(passed: Headers, renewed: Headers) -> ForwardAuthResponse:
    return ForwardAuthResponse(200, "renewed" if renewed else "allowed", passed)


def _refused(status: int, text: str) -> ForwardAuthResponse:
    return ForwardAuthResponse(status, "refused", (), text)


def _later(text: str) -> ForwardAuthResponse:
    return ForwardAuthResponse(503, "refused", ((b"retry-after", b"2"),), text)
