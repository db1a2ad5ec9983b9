"""Reading hosts, cookies and paths that strangers have written."""

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unit.gateway.edge_stage import SETTINGS
from vdi.gateway.edge.headers import (
    COOKIE_BYTES,
    FORWARD_AUTH,
    AmbiguousError,
    Hosts,
    is_foreign,
    is_navigation,
    local_path,
    read_headers,
    that_fit,
    without_ours,
)
from vdi.gateway.web.credentials import cookies_in

HOSTS = Hosts(SETTINGS)
COOKIES = st.text(st.sampled_from('__Host-vdi=;, \t"\\abH'), max_size=60)


@given(st.text(max_size=80))
@example("//evil.example")
@example("/\\evil.example")
@example("/\t/evil.example")
@example("/%5c/evil.example")
@example("/a/..//evil.example")
def test_a_path_that_passes_stays_on_its_host(text: str) -> None:
    path = local_path(text)
    there = urlsplit(urljoin("https://a.vdi.localhost/x/y", path))
    assert (there.scheme, there.netloc) == ("https", "a.vdi.localhost")
    assert path.isascii()
    assert path.isprintable()
    assert not path.startswith("/.vdi/")


@pytest.mark.parametrize(
    "path", ["/", "/files", "/files?a=b/../c", "/a%2Fb", "/?next=//x", "/a//b", "/..a"]
)
def test_an_honest_path_passes(path: str) -> None:
    assert local_path(path) == path


@given(st.text(max_size=100))
@example("ALICE.vdi.localhost")
@example("portal.vdi.localhost")
@example("K.vdi.localhost")  # the Kelvin sign, whose lower case is a k
def test_a_label_is_one_of_dns_and_never_the_portals(host: str) -> None:
    label = HOSTS.label(host)
    if label is not None:
        assert label != "portal"
        assert label.isascii()
        assert len(label) <= 63
        assert host.isascii()
        assert host.lower().startswith(f"{label}.vdi.localhost")


@given(COOKIES)
@example("__Host-vdi-desktop=a; __host-vdi-grant=b; x=__Host-vdi-desktop=c")
@example("__Host-vdi-desktop=a,__Host-vdi-grant=b")
def test_the_desktop_sees_no_cookie_of_ours_and_all_of_its_own(header: str) -> None:
    kept = without_ours(header)
    assert not any(part.strip().lower().startswith("__host-vdi-") for part in kept.split(";"))
    assert cookies_in(kept) == {}
    own = [part.strip() for part in header.split(";") if part.strip()]
    own = [part for part in own if not part.lower().startswith("__host-vdi-")]
    assert [part.strip() for part in kept.split(";") if part.strip()] == own


@given(COOKIES)
@example("small=1; " + "; ".join(f"{name}={'x' * 3000}" for name in "abc") + "; last=2")
def test_the_desktop_gets_no_more_cookies_than_it_takes(header: str) -> None:
    kept = that_fit(header)
    assert len(kept) <= COOKIE_BYTES
    assert set(kept.split("; ")) <= {*header.split("; "), ""}
    if len(header) <= COOKIE_BYTES:
        assert kept == header
    if header.startswith("small=1; "):
        assert kept == f"small=1; a={'x' * 3000}; last=2"


def test_headers_that_come_twice() -> None:
    assert read_headers(
        [(b"cookie", b"a=b"), (b"cookie", b"c=d"), (b"accept", b"x"), (b"accept", b"y")]
    ) == {
        b"cookie": b"a=b; c=d",
        b"accept": b"y",
    }
    for name in (b"x-forwarded-host", b"x-forwarded-uri", b"sec-fetch-mode", b"origin", b"host"):
        with pytest.raises(AmbiguousError, match=name.decode()):
            read_headers([(name, b"a"), (name, b"a")])


def test_traefik_is_asked_for_every_header_that_is_read_here() -> None:
    asked = {name.lower() for name in FORWARD_AUTH["authRequestHeaders"]}
    assert {
        "accept",
        "cookie",
        "origin",
        "sec-fetch-mode",
        "sec-fetch-dest",
        "sec-fetch-site",
    } <= asked
    assert is_navigation("GET", {b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"document"})
    assert is_foreign("/", {b"sec-fetch-site": b"same-site"}, "https://a", navigation=False)
