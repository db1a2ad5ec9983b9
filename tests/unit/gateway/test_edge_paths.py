"""What each role may request of a desktop, path by path, however the path is written."""

from collections.abc import AsyncIterator

import pytest

from unit.gateway.edge_selkies import FakeSelkies
from unit.gateway.edge_stage import GUEST, HANDSHAKE, HOST, OWNER, EdgeStage, shared_with
from vdi.api.session import Role
from vdi.gateway.edge.selkies import may_request

NO_ONE, OWNER_ONLY, CONTROL, ALL = "", "owner", "owner collaborator", "owner collaborator viewer"
# Every route of Selkies 2.1.0, and what its page loads, by the roles that may request it.
ROUTES = {
    NO_ONE: [
        "POST /api/tokens", "GET /api/recording", "POST /api/recording", "DELETE /api/recording",
        "GET /api/screenshot", "GET /api/of-a-later-version", "GET /api",
    ],
    OWNER_ONLY: [
        "GET /api/sessions", "DELETE /api/sessions/1a2b3c", "GET /api/metrics",
    ],
    CONTROL: [
        "POST /api/switch", "POST /api/upload", "GET /api/files/", "GET /api/files/a/b.txt",
        "GET /api/print/page.pdf", "GET /api/apps/metadata.yml", "GET /api/apps/img/x.png", "POST /",
        "PUT /api/status", "OPTIONS /assets/x",
    ],
    ALL: [
        "GET /api/status", "GET /api/health", "GET /api/turn", "GET /api/websockets", "GET /api/websockets/",
        "GET /api/webrtc/signaling", "GET /api/webrtc/signaling/", "GET /api/ws", "GET /", "HEAD /",
        "GET /assets/index-BpOBp7NB.js", "GET /apiary",
    ],
}  # fmt: skip
TABLE = [(*route.split(" "), roles) for roles, routes in ROUTES.items() for route in routes]
SESSIONS_OTHERWISE = [
    "/api/sessions/", "/api/sessions/x/y", "//api/sessions", "/api//sessions", "/./api/./sessions",
    "/x/../api/sessions", "/api/x/../sessions", "/API/Sessions", "/%61pi/sessions", "/api/%73essions/x",
    "/api%2fsessions", "/api%2Fsessions%2Fx", "/api%252fsessions", "/api%25252fsessions", "/api\\sessions",
    "/api%5csessions", "/x/..%2fapi/sessions", "/x/%2e%2e/api/sessions", "/x%2f..%2fapi%2fsessions",
    "/api;a=b/sessions", "/api/sessions;a=b/x", "/api/sessions%3Ba", "/api/..;/api/sessions", "/api/sessions%00",
    "/api/sessions%00/../x", "/api/sessions%20", "/%2525252525252525252525",
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "roles"), TABLE)
def test_each_role_has_its_paths(method: str, path: str, roles: str) -> None:
    assert {role for role in Role if may_request(role, method, path)} == set(roles.split())


@pytest.mark.parametrize("path", SESSIONS_OTHERWISE)
def test_no_spelling_of_a_path_passes(path: str) -> None:
    for role in (Role.COLLABORATOR, Role.VIEWER):
        assert not may_request(role, "GET", path), role


@pytest.mark.parametrize("target", ["recording", "screenshot"])
@pytest.mark.parametrize("path", SESSIONS_OTHERWISE)
def test_no_browser_records_the_screen(path: str, target: str) -> None:
    """However the path is written, and whatever stands before it: an allowed path too."""
    same = (
        path.replace("Sessions", target.title())
        .replace("%73essions", target)
        .replace("sessions", target)
    )
    for spelling in (
        f"/api/{target}",
        same,
        f"/api/files/..%2f{target}",
        f"/api/upload/../{target}",
    ):
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
            assert not any(may_request(role, method, spelling) for role in Role), (method, spelling)


@pytest.mark.parametrize(
    "path", ["/api/status/../files/x", "/api/status/..%2ffiles", "/assets/..%2fapi%2ffiles/"]
)
def test_a_viewer_gets_no_further_by_what_they_may_see(path: str) -> None:
    assert not may_request(Role.VIEWER, "GET", path)


@pytest.mark.parametrize(
    "path",
    ["/api/files/a%20b/c%25d.txt", "/api/files/a/..%20", "/api/files/recording", "/x/%C3%A4"],
)
def test_an_odd_name_of_a_file_is_no_trick(path: str) -> None:
    assert may_request(Role.OWNER, "GET", path)
    assert may_request(Role.COLLABORATOR, "GET", path)


@pytest.fixture
async def stage(desktop: FakeSelkies) -> AsyncIterator[EdgeStage]:
    async with EdgeStage(selkies=lambda _: desktop.url) as stage:
        yield stage


@pytest.mark.parametrize("role", Role)
async def test_the_edge_asks_the_table(stage: EdgeStage, role: Role) -> None:
    user = OWNER if role is Role.OWNER else GUEST
    if user == GUEST:
        stage.change(spec=shared_with(GUEST, role))
    browser = await stage.entered(user)
    for method, path, roles in TABLE:
        headers = {"X-Forwarded-Method": method, "Cookie": browser.stolen(HOST)}
        answer = await stage.verify(HOST, f"{path}?token=stolen", **headers)
        assert answer.status_code == (200 if role in roles.split() else 403), (method, path)
    handshake = await stage.verify(HOST, "/api/sessions", Cookie=browser.stolen(HOST), **HANDSHAKE)
    assert handshake.status_code == (200 if role is Role.OWNER else 403)
