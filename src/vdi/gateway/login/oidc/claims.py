"""What an ID token must say to be believed, and who the person is by what the provider says. Pure."""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

from vdi.gateway.login.logins import OIDC as SOURCE
from vdi.gateway.login.logins import Identity
from vdi.gateway.settings import OIDC, Settings
from vdi.gateway.users import check_address, normal_groups

_LEEWAY = 60
"""Seconds that clocks may differ."""
_LARGEST_TIME = 2**53
"""Seconds since 1970: every whole number up to here is a number in JSON and in floating point."""
_HASHES = {"256": "sha256", "384": "sha384", "512": "sha512"}
"""By the end of the signature's name; Ed25519 has SHA-512."""
_SUBJECT = re.compile("[ -~]{1,255}")
"""OpenID Connect Core 1.0, 2: at most 255 ASCII characters."""


class ClaimsError(Exception):
    """Raised when a provider's answer must not be believed: for the log, and for people in one general sentence."""


class RefusedError(Exception):
    """Raised when the person is known and may not come in; the sentence is for them."""


def check_claims(claims: Mapping[str, Any], config: OIDC, nonce: str, now: float) -> None:
    """OpenID Connect Core 1.0, 3.1.3.7. Raises ClaimsError naming the claim, what it says and what is allowed."""
    if claims.get("iss") != config.issuer:
        raise ClaimsError(f"iss is {claims.get('iss')!r}; allowed: {config.issuer!r}")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if config.client_id not in audiences:
        raise ClaimsError(f"aud is {audience!r}; allowed: {config.client_id!r}")
    party = claims.get("azp")
    if (len(audiences) > 1 or party is not None) and party != config.client_id:
        raise ClaimsError(f"azp is {party!r}; allowed: {config.client_id!r}")
    for name, low, high in (("exp", now - _LEEWAY, None), ("iat", None, now + _LEEWAY), ("nbf", None, now + _LEEWAY)):
        value = claims.get(name)
        if value is None and name == "nbf":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ClaimsError(f"{name} is {value!r}; allowed: a time")
        if not abs(value) <= _LARGEST_TIME:  # NaN is neither more nor less than any time
            raise ClaimsError(f"{name} is {str(value)[:40]}; allowed: a time of at most 2^53 seconds")
        if (low is not None and value <= low) or (high is not None and value > high):
            raise ClaimsError(f"{name} is {value:.0f}, and the current time is {now:.0f}")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise ClaimsError(f"sub is {str(subject)[:300]!r}; allowed: 1 to 255 visible ASCII characters")
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(_bytes(said), nonce.encode()):
        raise ClaimsError("nonce does not match the one that was sent")


def check_access_token(header: Mapping[str, Any], claims: Mapping[str, Any], access_token: str) -> None:
    """OpenID Connect Core 1.0, 3.1.3.8: `at_hash`, where it is there. Raises ClaimsError."""
    if "at_hash" not in claims:
        return
    hashed = hashlib.new(_HASHES.get(str(header["alg"])[-3:], "sha512"), access_token.encode()).digest()
    expected = urlsafe_b64encode(hashed[: len(hashed) // 2]).rstrip(b"=")
    said = claims["at_hash"]
    if not isinstance(said, str) or not hmac.compare_digest(_bytes(said), expected):
        raise ClaimsError("at_hash does not match the access token")


def identity_from(claims: Mapping[str, Any], config: OIDC, settings: Settings) -> Identity:
    """Who this is. Raises RefusedError without an e-mail address that the provider stands for."""
    email = claims.get("email")
    if not isinstance(email, str) or not email:
        raise RefusedError(
            f"{config.name} did not send your e-mail address, which identifies the owner of a desktop. Your "
            "administrator can configure it to send the claim 'email'."
        )
    verified = claims.get("email_verified")
    if verified is None and config.require_verified:
        raise RefusedError(
            f"{config.name} does not say whether {email[:254]} is verified. Only an administrator of VDI can change "
            "this: have the claim 'email_verified' sent, or set gateway.oidc.requireVerified to false. See "
            "docs/login.md#verified."
        )
    if verified is not None and verified is not True:
        raise RefusedError(
            f"{config.name} reports that {email[:254]} is not verified (email_verified is {str(verified)[:40]!r}; "
            "allowed: true). Verify it there first."
        )
    try:
        user = check_address(email)
    except ValueError as why:
        raise RefusedError(f"{config.name} returned an address that cannot be used: {why}.") from None
    groups = groups_in(claims.get(config.groups_claim))
    name = claims.get("name")
    return Identity(
        user=user,
        name="".join(filter(str.isprintable, name))[:200] if isinstance(name, str) else "",
        groups=groups,
        admin=user in settings.admin_users or not groups.isdisjoint(settings.admin_groups),
        source=SOURCE,
        issuer=config.issuer,
        subject=claims.get("sub", ""),
    )


def lacks(claims: Mapping[str, Any], config: OIDC) -> bool:
    """Whether something that an identity needs is not in the ID token."""
    needed = ["email", config.groups_claim] + (["email_verified"] if config.require_verified else [])
    return any(name not in claims for name in needed)


def merge(id_token: Mapping[str, Any], user_info: Mapping[str, Any]) -> dict[str, Any]:
    """The claims of the ID token, with what it lacks from the user info."""
    merged = {**user_info, **id_token}
    if "email" in id_token and "email_verified" not in id_token and user_info.get("email") != id_token["email"]:
        merged.pop("email_verified", None)  # it is said of another address
    if "email" not in id_token and "email_verified" in id_token:
        merged["email_verified"] = user_info.get("email_verified")
    return merged


def groups_in(claim: Any) -> frozenset[str]:
    """Groups, as a list or as one text with commas between them."""
    names = claim.split(",") if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return normal_groups(name for name in names if isinstance(name, str) and name.strip().isprintable())


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
