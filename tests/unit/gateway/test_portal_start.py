"""The catalogue and the form that starts a desktop: who is offered what, and what is asked of the
cluster.
"""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.waiting import eventually
from unit.gateway.portal_stage import (
    ADMIN,
    ALICE,
    BOB,
    PageBrowser,
    PortalStage,
    a_session,
    a_template,
    running,
)
from vdi.api.template import LargestSize
from vdi.cluster.units import parse_duration, parse_quantity
from vdi.gateway.denied import ActionDenied
from vdi.gateway.portal import desktops
from vdi.gateway.portal.catalogue import first_choice, offer_of, session_request, sharing_home
from vdi.gateway.rights import User
from vdi.session.cluster_settings import ClusterSettings

FORM, CPU_ONLY = "/catalogue/ubuntu", {"defaultGPU": 0}


@pytest.fixture
def stage() -> PortalStage:
    return PortalStage(
        a_template(
            "ubuntu",
            description="A desktop for everything",
            resources={"maxGPU": 2, "maxMemory": "16Gi"},
        ),
        a_template(
            "build", resources={"defaultEphemeralStorage": "5Gi", "maxEphemeralStorage": "30Gi"}
        ),
        a_template("lab", access={"groups": ["research"]}),
        a_template("hers", access={"users": ["Alice@example.com"]}),
        a_template("web", displayName="", resources=CPU_ONLY, persistence={"enabled": False}),
    )


async def names(browser: PageBrowser, query: str = "") -> list[str]:
    page = await browser.html(f"/catalogue{query}")
    return [
        name
        for name in ("ubuntu", "lab", "hers", "web")
        if f'formaction="/catalogue/{name}">' in page
    ]


async def test_the_catalogue_offers_what_one_may_use(stage: PortalStage) -> None:
    assert await names(stage.browser(ALICE)) == ["ubuntu", "hers", "web"]
    researcher = User("rita@example.com", groups=frozenset({"research"}), login_id="rita")
    assert await names(stage.browser(researcher)) == ["ubuntu", "lab", "web"]
    assert await names(stage.browser(ADMIN)) == ["ubuntu", "lab", "hers", "web"]


async def test_searching_finds_words_in_name_and_description(stage: PortalStage) -> None:
    found = {
        query: await names(stage.browser(), f"?q={query}")
        for query in ("UBU", "every+desk", "lab", "")
    }
    assert found == {
        "UBU": ["ubuntu"],
        "every+desk": ["ubuntu"],
        "lab": [],
        "": ["ubuntu", "hers", "web"],
    }


async def test_an_opened_form_creates_the_home_of_a_startable_template(stage: PortalStage) -> None:
    browser = stage.browser()
    for path in ("/catalogue", "/catalogue/lab", "/catalogue/nothing"):
        await browser.get(path)
    assert not stage.world.homes.values()
    await browser.get(FORM)
    await eventually(lambda: len(stage.world.homes.values()) == 1, "the home is made")
    assert stage.world.homes.values()[0].metadata.annotations["vdi.kasm.io/user"] == ALICE.email


@pytest.mark.parametrize("path", ["/catalogue/lab", "/catalogue/nothing"])
async def test_a_template_of_others_looks_like_none_at_all(stage: PortalStage, path: str) -> None:
    answer = await stage.browser().get(path)
    assert (answer.status_code, "There is no template" in answer.text) == (404, True)
    assert (await stage.browser().post(path, at=FORM)).status_code == 404
    assert stage.acts == []


async def test_starting_as_offered_asks_for_nothing_but_that(stage: PortalStage) -> None:
    template = stage.world.template("ubuntu")
    assert template
    offered = first_choice(template, ClusterSettings(), ALICE, [])
    answer = await stage.browser().post(
        FORM, at=FORM, then="open", time_zone="Mars/Base", **offered
    )
    asked = {"user": "alice@example.com", "template": "ubuntu", "timeout": "8h"}
    assert stage.cluster.objects["alice-ubuntu"]["spec"] == asked
    assert (answer.status_code, answer.headers["location"]) == (303, "/desktops/alice-ubuntu/open")


async def test_start_button_asks_for_what_the_template_offers(stage: PortalStage) -> None:
    browser = stage.browser()
    answer = await browser.post(FORM, at="/catalogue", time_zone="Europe/Berlin")
    asked = {"user": "alice@example.com", "template": "ubuntu", "timeZone": "Europe/Berlin"}
    assert stage.cluster.objects["alice-ubuntu"]["spec"] == asked
    assert answer.headers["location"] == "/desktops/alice-ubuntu/open"
    again = await browser.post(FORM, at="/catalogue")
    assert (again.status_code, again.headers["location"]) == (
        303,
        FORM,
    ), "its files are in use: the form says it"


async def test_start_button_starts_as_last_time() -> None:
    home = {"size": "10Gi", "maxSize": "10Gi"}
    stage = PortalStage(
        a_template("ubuntu", resources={"maxGPU": 4, "maxMemory": "16Gi"}, persistence=home)
    )
    browser = stage.browser()
    assert "As last time" not in await browser.html("/catalogue")
    first = {
        "name": "first",
        "gpu": "2",
        "memory": "16Gi",
        "timeout": "4h",
        "idle": "30m",
        "time_zone": "Asia/Tokyo",
    }
    await browser.post(FORM, at=FORM, then="stay", **first)
    await stage.browser(BOB).post(FORM, at=FORM, gpu="3", name="bobs", home="yes")
    said = (
        "As last time: 2 GPUs, 16 GiB, time limit 4 hours, idle timeout after 30 minutes, without"
        " your files"
    )
    assert said in await browser.text("/catalogue")
    assert '<option value="16Gi" selected>' in await browser.html(FORM)
    await browser.post(FORM, at="/catalogue")
    spec = stage.cluster.objects["alice-ubuntu"]["spec"]
    assert (spec["resources"]["gpu"], spec["resources"]["memory"]) == (2, "16Gi")
    assert (spec["timeout"], spec["idleTimeout"], spec["persistence"]) == (
        "4h",
        "30m",
        {"enabled": False},
    )
    assert "timeZone" not in spec
    stage.put(
        a_template(
            "ubuntu", resources={"maxGPU": 1, "maxMemory": "16Gi"}, persistence={"enabled": False}
        )
    )
    said = "As last time: 16 GiB, time limit 4 hours, idle timeout after 30 minutes Start"
    assert said in await browser.text("/catalogue"), "what it no longer offers is gone"
    stage.lose_audit()
    assert "As last time" not in await browser.html("/catalogue")


async def test_opening_waits_for_the_address_and_leads_there(
    stage: PortalStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://mine-5tq2mzk4.vdi.localhost"
    stage.put(a_session("mine"))
    opening = asyncio.create_task(stage.browser().get("/desktops/mine/open"))
    stage.put(a_session("other", status={"url": "https://other.vdi.localhost"}))
    await eventually(lambda: bool(stage.services.subscriptions._by_topic), "it waits")
    stage.put(a_session("mine", status={"phase": "Pending", "url": url}))
    answer = await opening
    assert (answer.status_code, answer.headers["location"]) == (303, f"{url}/")
    assert (await stage.browser(BOB).get("/desktops/mine/open")).status_code == 404
    monkeypatch.setattr(desktops, "_ADDRESS_SECONDS", 0.01)
    stage.put(a_session("slow"))
    assert (await stage.browser().get("/desktops/slow/open")).headers[
        "location"
    ] == "/desktops/slow"


async def test_what_is_chosen_is_asked_for(stage: PortalStage) -> None:
    fields = {
        "name": "big",
        "gpu": "2",
        "memory": "16Gi",
        "cpu": "2",
        "timeout": "4h",
        "idle": "30m",
        "then": "stay",
    }
    fields["time_zone"] = "America/New_York"
    answer = await stage.browser().post(FORM, at=FORM, **fields)
    assert stage.cluster.objects["big"]["spec"] == {
        "user": "alice@example.com",
        "template": "ubuntu",
        "resources": {"gpu": 2, "memory": "16Gi", "cpu": "2"},
        "timeout": "4h",
        "idleTimeout": "30m",
        "timeZone": "America/New_York",
        "persistence": {"enabled": False},
    }
    assert answer.headers["location"] == "/desktops/big?done=start&name=big"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("gpu", "-1", "GPUs: &#39;-1&#39; is not a whole number."),
        ("gpu", "1e9", "GPUs: "),
        ("memory", "lots", "Memory: &#39;lots&#39; is not a quantity"),
        ("cpu", "\u0664", "CPUs: "),
        ("ephemeral_storage", "lots", "Local disk: &#39;lots&#39; is not a quantity"),
        ("timeout", "0h", "Time limit: &#39;0h&#39; is not a duration"),
        ("idle", "soon", "Idle timeout: "),
    ],
)
async def test_what_is_not_allowed_is_named(
    stage: PortalStage, field: str, value: str, said: str
) -> None:
    fields = {"name": "mine", "gpu": "1", "memory": "4Gi", "cpu": "2", "timeout": "8h"} | {
        field: value
    }
    answer = await stage.browser().post(FORM, at=FORM, **fields)
    assert (answer.status_code, stage.acts) == (422, [])
    assert said in answer.text and 'value="mine"' in answer.text


async def test_a_refusal_keeps_what_was_chosen(stage: PortalStage) -> None:
    stage.cluster.refuses = ActionDenied("OverLimit", "You may have 1 desktop at once.")
    fields = {
        "name": "mine",
        "gpu": "2",
        "memory": "8Gi",
        "cpu": "1",
        "timeout": "12h",
        "idle": "2h",
    }
    answer = await stage.browser().post(FORM, at=FORM, **fields)
    assert (answer.status_code, "You may have 1 desktop at once." in answer.text) == (409, True)
    for name in ("2", "8Gi", "1", "12h", "2h"):
        assert f'<option value="{name}" selected>' in answer.text
    assert "checked" not in answer.text


async def test_a_desktop_without_gpu_and_home_offers_neither(stage: PortalStage) -> None:
    page = await stage.browser().html("/catalogue/web")
    assert 'name="gpu"' not in page and 'name="home"' not in page
    assert "No GPU" in await stage.browser().html("/catalogue?q=web")


@pytest.mark.parametrize(("mode", "number"), [("Always", 1), ("OnDemand", 0), ("Off", 0)])
async def test_a_card_says_that_the_desktop_is_recorded(
    stage: PortalStage, mode: str, number: int
) -> None:
    stage.put(a_template("recorded", recording={"mode": mode}))
    assert (await stage.browser().html("/catalogue?q=recorded")).count(
        "<li>recorded</li>"
    ) == number


@pytest.mark.parametrize(("action", "end"), [("Suspend", "is suspended"), ("Terminate", "ends")])
async def test_the_form_says_what_happens_at_the_end_of_the_times(
    stage: PortalStage, action: str, end: str
) -> None:
    stage.put(a_template("ends", lifecycle={"onTimeout": action, "onIdle": action}))
    page = await stage.browser().text("/catalogue/ends")
    assert f"Then the desktop {end}" in page
    assert f"After this long without mouse or keyboard input, the desktop {end}." in page


async def test_local_disk_is_offered_up_to_the_template_maximum(stage: PortalStage) -> None:
    path = "/catalogue/build"
    page = await stage.browser().html(path)
    offered = re.search(r'<select id="ephemeral_storage".*?</select>', page, re.DOTALL)
    assert offered
    assert re.findall(r'value="(\w+)"( selected)?', offered[0]) == [
        ("1Gi", ""), ("2Gi", ""), ("5Gi", " selected"), ("10Gi", ""), ("20Gi", ""), ("30Gi", ""),
    ]  # fmt: skip
    assert "4 GiB memory 5 GiB local disk" in await stage.browser().text("/catalogue?q=build")
    assert "ephemeral_storage" not in await stage.browser().html(FORM)

    fields = {"gpu": "1", "memory": "4Gi", "cpu": "2", "timeout": "4h", "home": "yes"}
    for name, disk, asked in (("big", "20Gi", "20Gi"), ("usual", "5Gi", None)):
        await stage.browser().post(path, at=path, **fields, name=name, ephemeral_storage=disk)
        spec = stage.cluster.objects[name]["spec"]
        assert spec.get("resources", {}).get("ephemeralStorage") == asked


async def test_the_form_names_the_desktop_that_uses_the_files(stage: PortalStage) -> None:
    stage.put(running("first", template="ubuntu"))
    assert "Your files are in use first uses the same home folder" in await stage.browser().text(
        FORM
    )


def test_only_what_uses_the_home_is_in_the_way() -> None:
    sessions = [
        running("uses"),
        running("sleeps", suspended=True),
        running("without", persistence={"enabled": False}),
        running("others", user="bob@example.com"),
        running("another", template="else"),
        a_session("going", deleting=True),
    ]
    assert sharing_home(sessions, a_template(), ALICE) == ["uses"]


def test_a_name_that_is_free_is_proposed() -> None:
    taken = ["alice-ubuntu", "alice-ubuntu-2"]
    assert first_choice(a_template(), ClusterSettings(), ALICE, [])["name"] == "alice-ubuntu"
    assert first_choice(a_template(), ClusterSettings(), ALICE, taken)["name"] == "alice-ubuntu-3"


_QUANTITIES = st.sampled_from(["512Mi", "1Gi", "3Gi", "4Gi", "5000Mi", "8Gi", "64Gi", "1Ti"])
_TIMES = st.sampled_from(["20m", "1h", "90m", "8h", "36h", "168h", "400h"])


@given(_QUANTITIES, _QUANTITIES, _TIMES)
def test_a_form_never_offers_more_than_the_template_allows(
    default: str, most: str, longest: str
) -> None:
    if parse_quantity(most) < parse_quantity(default):
        default, most = most, default
    template = a_template(
        resources={"defaultMemory": default, "maxMemory": most}, lifecycle={"maxTimeout": longest}
    )
    offer = offer_of(template, ClusterSettings())
    first = first_choice(template, ClusterSettings(), ALICE, [])
    assert all(parse_quantity(each.value) <= parse_quantity(most) for each in offer.memory)
    assert all(
        parse_duration(timeout.value) <= parse_duration(longest) for timeout in offer.timeout
    )
    assert first["memory"] in [each.value for each in offer.memory]
    assert first["timeout"] in [timeout.value for timeout in offer.timeout]
    open_ended, policy = a_template(), ClusterSettings(max_timeout=longest)
    offer = offer_of(open_ended, policy)
    chosen = first_choice(open_ended, policy, ALICE, [])["timeout"]
    assert chosen in [timeout.value for timeout in offer.timeout]
    assert max(parse_duration(timeout.value) for timeout in offer.timeout) == parse_duration(
        longest
    )
    requested = session_request(first, template, ALICE)
    assert not requested.names_resources and requested.persistence is None


def test_form_offers_no_size_that_no_node_has() -> None:
    template = a_template(
        "big", resources={"defaultMemory": "4Gi", "maxMemory": "64Gi", "maxCPU": "16"}
    )
    template.status.largest = LargestSize("24005Mi", "4000m")
    offer = offer_of(template, ClusterSettings())
    assert [choice.value for choice in offer.memory] == ["1Gi", "2Gi", "4Gi", "8Gi", "12Gi", "16Gi"]
    assert [choice.value for choice in offer.cpu] == ["500m", "1", "2", "4"]
