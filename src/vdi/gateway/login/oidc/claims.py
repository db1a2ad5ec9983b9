"""What an ID token must say to be believed, and who the person is by what the provider says. Pure."""

import hmac
from collections.abc import Mapping
from typing import Any

from vdi.gateway.login.logins import OIDC as SOURCE
from vdi.gateway.login.logins import Identity
from vdi.gateway.settings import OIDC, Settings
from vdi.gateway.users import check_address

_LEEWAY = 60
"""Seconds that clocks may differ."""


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
        if (low is not None and value <= low) or (high is not None and value > high):
            raise ClaimsError(f"{name} is {value:.0f}, and the current time is {now:.0f}")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise ClaimsError("sub is missing")
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(), nonce.encode()):
        raise ClaimsError("nonce does not match the one that was sent")


def identity_from(claims: Mapping[str, Any], config: OIDC, settings: Settings) -> Identity:
    """Who this is. Raises RefusedError without an e-mail address that the provider stands for."""
    email = claims.get("email")
    if not isinstance(email, str) or not email:
        raise RefusedError(
            f"{config.name} did not send your e-mail address, which identifies the owner of a desktop. Your "
            "administrator can configure it to send the claim 'email'."
        )
    if claims.get("email_verified") in (False, "false"):
        raise RefusedError(f"{config.name} reports that {email[:254]} is not verified. Verify it there first.")
    try:
        user = check_address(email)
    except ValueError as why:
        raise RefusedError(f"{config.name} returned an address that cannot be used: {why}.") from None
    groups = groups_in(claims.get(config.groups_claim))
    name = claims.get("name")
    return Identity(
        user=user,
        name=name[:200] if isinstance(name, str) else "",
        groups=groups,
        admin=user in settings.admin_users or not groups.isdisjoint(settings.admin_groups),
        source=SOURCE,
    )


def groups_in(claim: Any) -> frozenset[str]:
    """Groups, as a list or as one text with commas between them."""
    names = claim.split(",") if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(name.strip() for name in names if isinstance(name, str) and name.strip())
