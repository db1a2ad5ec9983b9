"""The tokens that operator and gateway derive for themselves: fixed vectors, since both must give
the same for ever.
"""

import base64
import hmac

import pytest

from vdi.session.credentials import DesktopTokens, decode_key, derive_pool_tokens, derive_tokens
from vdi.session.naming import pod_name

KEY = bytes(range(32))
UID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def of_session(
    key: bytes = KEY, *, name: str = "cad", uid: str = UID, pod: str = ""
) -> DesktopTokens:
    return derive_tokens(key, namespace="vdi-sessions", name=name, uid=uid, pod=pod)


def both(tokens: DesktopTokens) -> tuple[str, str]:
    return tokens.password, tokens.agent


def test_vectors() -> None:
    assert both(of_session()) == ("Bk1IdGb5N98N1tAfyBpOS9cl", "8mpz1y6SYxrROtP-v8hOSlbh")
    pooled = derive_pool_tokens(KEY, namespace="vdi-sessions", pod="warm-3abc")
    assert both(pooled) == ("TFBzZS3XZKYeXrWRFdWFQIqM", "TamHo5xxbuGdL7cFKSK5dSyK")
    mac = hmac.digest(KEY, b"password/session/" + UID.encode(), "sha256")
    assert of_session().password == base64.urlsafe_b64encode(mac[:18]).decode()


@pytest.mark.parametrize("name", ["cad", "a.b", "x" * 253, "Looks-2derivedabcd"])
def test_tokens_stay_when_the_session_gets_its_own_pod(name: str) -> None:
    assert both(of_session(name=name)) == both(of_session(name=name, pod=pod_name(name)))


def test_claimed_desktop_keeps_the_tokens_of_its_start() -> None:
    claimed = of_session(pod="warm-3abc")
    assert both(claimed) == both(derive_pool_tokens(KEY, namespace="vdi-sessions", pod="warm-3abc"))


def test_each_desktop_and_each_key_has_tokens_of_its_own() -> None:
    desktops = [
        of_session(),
        of_session(bytes(32)),
        of_session(uid="another"),
        of_session(pod="warm-3abc"),
        of_session(pod="warm-3abd"),
        derive_pool_tokens(KEY, namespace="elsewhere", pod="warm-3abc"),
    ]
    tokens = [token for desktop in desktops for token in both(desktop)]
    assert len(set(tokens)) == len(tokens)
    assert {len(token) for token in tokens} == {24}
    assert not [
        desktop for desktop in desktops if any(token in repr(desktop) for token in both(desktop))
    ]


@pytest.mark.parametrize(
    "data", [{}, {"key": ""}, {"key": "?"}, {"key": base64.b64encode(b"x" * 31).decode()}]
)
def test_what_is_no_key_is_refused(data: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="has no entry 'key' with at least 32 bytes"):
        decode_key(data)
