"""Auditors read everyone's history, audit and transfers, and can do nothing else to others'
desktops.
"""

import httpx
import pytest

from support.builders import a_session
from unit.gateway.api_stage import RUNNING, ApiStage
from unit.gateway.gateway_stage import NOW
from unit.gateway.portal_stage import PortalStage
from vdi.gateway.api.component import OPERATIONS
from vdi.gateway.api.operation import Operation
from vdi.gateway.login.logins import Device, Identity, Logins
from vdi.gateway.rights import Action, User, knows_of, refusal
from vdi.gateway.settings import Settings

CAROL = User("carol@example.com", "Carol", auditor=True, login_id="login-carol")
AUDITORS = Settings(auditor_users=frozenset({CAROL.email}))
READS = {"listAllHistory", "getAllUsage", "exportAll", "listAudit"}
OTHERS = ("", "/sessions", "/templates", "/pools", "/people", "/doctor")


@pytest.mark.parametrize("action", Action)
def test_auditor_has_no_right_to_anothers_desktop(action: Action) -> None:
    session = a_session()
    assert not knows_of(session, CAROL, NOW)
    assert (
        refusal(CAROL, action, session, NOW)
        == refusal(User("eve@example.com"), action, session, NOW)
        is not None
    )


def test_operations_for_auditors_only_read() -> None:
    found = [operation for operation in OPERATIONS if operation.auditor]
    assert {operation.name for operation in found} == READS
    assert {operation.method for operation in found} == {"GET"}


@pytest.mark.parametrize(
    "operation", [one for one in OPERATIONS if one.admin], ids=lambda one: str(one.name)
)
async def test_every_other_operation_of_administrators_is_refused(operation: Operation) -> None:
    stage = ApiStage()
    stage.session(status=RUNNING)
    stage.logins._settings = AUDITORS
    carol = await stage.program(Identity(user=CAROL.email))
    address = "/api/v1" + operation.path.format(name="alice-desktop", user="alice@example.com")
    answer: httpx.Response = await carol.request(
        operation.method, address, params={"what": "audit"} if "export" in operation.path else {}
    )
    assert (answer.status_code == 200) == operation.auditor
    assert answer.status_code in (200, 403)


async def test_pages_of_auditors_and_of_administrators() -> None:
    stage = PortalStage()
    stage.logins._settings = AUDITORS
    stage.put(a_session())
    carol = stage.browser(CAROL)
    audit = await carol.get("/admin/audit")
    assert audit.status_code == 200
    assert "/admin/transfers" in audit.text and "/admin/doctor" not in audit.text
    assert (await carol.get("/admin/transfers")).status_code == 200
    assert "Everyone’s desktops" in (await carol.get("/history?of=everyone")).text
    assert (await carol.get("/api/v1/admin/export?what=audit")).status_code == 200
    assert {(await carol.get(f"/admin{page}")).status_code for page in OTHERS} == {403}
    assert (await carol.get("/desktops/alice-desktop")).status_code == 404


async def test_role_comes_from_settings_at_each_request() -> None:
    stage = ApiStage()
    logins: Logins = stage.logins
    secret, _ = await logins.begin(
        Identity(user=CAROL.email, groups=frozenset({"audit"})), Device()
    )
    for settings, is_auditor in (
        (Settings(auditor_groups=frozenset({"audit"})), True),
        (AUDITORS, True),
        (Settings(auditor_groups=frozenset({"others"})), False),
    ):
        logins._settings = settings
        person = await logins.person_by_cookie(secret)
        assert person is not None
        assert (person.auditor, person.admin) == (is_auditor, False)
