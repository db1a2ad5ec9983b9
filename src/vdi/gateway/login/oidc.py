"""OpenID Connect login: authorization code with PKCE, checks of the ID token, and the identity it
proves.

The login pages call `OIDCProvider`. A provider that is down stops new logins and nothing else: it
is asked for its metadata at the start and every few minutes, so that this is known before somebody
logs in. The gateway stores nothing while a person is at the provider: the browser has a secret in a
cookie, `state` is signed with that secret, and nonce and PKCE verifier are derived from both. So
each attempt has its own values, and several tabs may log in at once.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import JWKRegistry, Key, KeySet

from vdi.gateway.login.logins import SOURCE_OIDC, Identity
from vdi.gateway.rights import normal_groups
from vdi.gateway.settings import OIDCSettings, Settings
from vdi.http_client import (
    HTTP_ERRORS,
    BadResponseError,
    HttpClient,
    Response,
    open_client_for_any_host,
    reason_of,
)
from vdi.session.users import check_address

log = logging.getLogger(__name__)
T = TypeVar("T")

# A person may take so long at the provider.
STATE_SECONDS = 600
# The clocks of the replicas that begin and end a login may differ by so much.
STATE_LEEWAY_SECONDS = 60
# The clocks of the provider and the gateway may differ by so much.
_CLOCK_LEEWAY_SECONDS = 60
# Every whole number up to here is a number in JSON and in floating point.
_LARGEST_TIME = 2**53
# OpenID Connect Core 1.0, 2: at most 255 ASCII characters.
_SUBJECT = re.compile("[ -~]{1,255}")
# Signatures with the provider's private key: `none` is no signature, and anyone may know a shared
# secret.
SIGNED_WITH = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "Ed25519",
    "EdDSA",
)
# Types of keys that make such signatures; `oct` is a shared secret.
_KEY_TYPES = ("RSA", "EC", "OKP")
# Hash of `at_hash` by the end of the signature's name; Ed25519 has SHA-512.
_HASHES = {"256": "sha256", "384": "sha384", "512": "sha512"}
# Timeout of one whole request to the provider.
_REQUEST_SECONDS = 10.0
# The keys of a provider with many of them take about 20 KiB.
_MAX_RESPONSE_BYTES = 128 * 1024
# Providers have two or three, Google and Microsoft about ten.
_MAX_KEYS = 100
# Groups of one person, and characters of a name, as in a template's `spec.access.groups`.
_MAX_GROUPS, _MAX_GROUP_LENGTH = 1000, 254
# Browsers would remove tabs and line ends, and a header would end there.
_URL = re.compile("[!-~]+")
# The provider's metadata and keys are read again after this time.
_METADATA_SECONDS = 3600.0
# Before a browser is sent to the provider, younger metadata is needed: a page of the gateway that
# says that the provider is down is better than the browser's own "cannot connect".
_BEFORE_REDIRECT_SECONDS = 30.0
# Between two reads of the keys because of an unknown key id: rotation works, and no one can make
# the gateway ask in a loop.
_UNKNOWN_KEY_SECONDS = 30.0
# Between two requests in the background for a provider that responds.
_CHECK_SECONDS = 300.0
# A provider that has just not responded is not asked again for so long: logins would queue for it.
_DOWN_SECONDS = 5.0
_SALT_BYTES = 16
_TIME_BYTES = 8
_LONGEST_NEXT = 512
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
# Browsers refuse a cookie of more than 4096 bytes, with its name and the mark.
_LONGEST_HINT = 4000


class StateError(Exception):
    """Raised when `state` is not the one that this browser was sent away with. `reason` is for the
    audit.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def is_secret(text: str) -> bool:
    """Whether a cookie's value has the form of `secrets.token_urlsafe(32)`."""
    return _SECRET.fullmatch(text) is not None


def make_state(secret: str, next_page: str, now: float) -> str:
    """A state that only the browser with this secret can bring back."""
    page = next_page if len(next_page) <= _LONGEST_NEXT else "/"
    content = _base64url(
        int(now).to_bytes(_TIME_BYTES) + secrets.token_bytes(_SALT_BYTES) + page.encode()
    )
    return f"{content}.{_sign(secret, 'state', content.encode())}"


def read_state(secret: str, state: str, now: float) -> str:
    """The page to go to after the login. Raises StateError for a state of another browser, or an
    old one.
    """
    text, _, mark = state.partition(".")
    known = is_secret(secret) and state.isascii()
    if not known or not hmac.compare_digest(
        mark.encode(), _sign(secret, "state", text.encode()).encode()
    ):
        message = (
            "this login was not started in this browser, or the browser no longer has its cookie"
        )
        raise StateError("another-browser", message)
    content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    age = now - int.from_bytes(content[:_TIME_BYTES])
    if age < -STATE_LEEWAY_SECONDS:
        message = f"this login starts {-age:.0f} s in the future: the clocks of two replicas differ"
        raise StateError("clocks-differ", message)
    if age > STATE_SECONDS:
        raise StateError(
            "expired", f"this login was started more than {STATE_SECONDS // 60} minutes ago"
        )
    return content[_TIME_BYTES + _SALT_BYTES :].decode()


def make_hint(secret: str, id_token: str) -> str:
    """The value of the cookie that keeps an ID token for the sign-out; empty: it is too long.
    `secret`: the login's.

    The gateway keeps none: an ID token is a credential elsewhere. The mark refuses one that a
    desktop has planted.
    """
    if len(id_token) <= _LONGEST_HINT:
        return f"{_sign(secret, 'hint', id_token.encode())}.{id_token}"
    return ""


def read_hint(secret: str, hint: str) -> str:
    """The ID token that this login has begun with; empty: it is not known."""
    mark, _, id_token = hint.partition(".")
    is_own = hmac.compare_digest(_utf8(mark), _sign(secret, "hint", _utf8(id_token)).encode())
    return id_token if is_own else ""


def nonce_of(secret: str, state: str) -> str:
    """The nonce that the ID token has to bring back."""
    return _sign(secret, "nonce", state.encode())


def verifier_of(secret: str, state: str) -> str:
    """The PKCE verifier: 43 characters."""
    return _sign(secret, "pkce", state.encode())


def challenge_of(verifier: str) -> str:
    """The PKCE challenge (S256) of a verifier."""
    return _base64url(hashlib.sha256(verifier.encode()).digest())


def _sign(secret: str, use: str, content: bytes) -> str:
    return _base64url(hmac.digest(secret.encode(), use.encode() + b"/" + content, hashlib.sha256))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class ClaimsError(Exception):
    """Raised for a response that is not valid; the reason is for the log, and people read one
    general sentence.

    `subject`: the account in the ID token, once its signature is proven.
    """

    subject = ""


class RefusedError(Exception):
    """Raised when the provider has authenticated a person who may not log in; the sentence is for
    them.

    `reason`, `email` and `subject` are for the audit: why, and for which address and account, as
    far as it is known.
    """

    def __init__(self, reason: str, message: str, claims: Mapping[str, Any] | None = None) -> None:
        known = claims or {}
        self.reason, self.email, self.subject = reason, known.get("email"), known.get("sub", "")
        super().__init__(message)


def check_claims(claims: Mapping[str, Any], config: OIDCSettings, nonce: str, now: float) -> None:
    """Check an ID token (OpenID Connect Core 1.0, 3.1.3.7). Raises ClaimsError with claim and
    allowed values.
    """
    if claims.get("iss") != config.issuer:
        raise ClaimsError(f"iss is {claims.get('iss')!r}; allowed: {config.issuer!r}")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if config.client_id not in audiences:
        raise ClaimsError(f"aud is {audience!r}; allowed: {config.client_id!r}")
    party = claims.get("azp")
    if (len(audiences) > 1 or party is not None) and party != config.client_id:
        raise ClaimsError(f"azp is {party!r}; allowed: {config.client_id!r}")
    for name, low, high in (
        ("exp", now - _CLOCK_LEEWAY_SECONDS, None),
        ("iat", None, now + _CLOCK_LEEWAY_SECONDS),
        ("nbf", None, now + _CLOCK_LEEWAY_SECONDS),
    ):
        value = claims.get(name)
        if value is None and name == "nbf":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ClaimsError(f"{name} is {value!r}; allowed: a time")
        if not abs(value) <= _LARGEST_TIME:  # not `>`: NaN is neither more nor less than any number
            raise ClaimsError(
                f"{name} is {str(value)[:40]}; allowed: a time of at most 2^53 seconds"
            )
        if (low is not None and value <= low) or (high is not None and value > high):
            raise ClaimsError(f"{name} is {value:.0f}, and the current time is {now:.0f}")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise ClaimsError(
            f"sub is {str(subject)[:300]!r}; allowed: 1 to 255 visible ASCII characters"
        )
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(_utf8(said), nonce.encode()):
        raise ClaimsError("nonce does not match the one that was sent")


def check_access_token(
    header: Mapping[str, Any], claims: Mapping[str, Any], access_token: str
) -> None:
    """Check `at_hash`, if the ID token has it (OpenID Connect Core 1.0, 3.1.3.8). Raises
    ClaimsError.
    """
    if "at_hash" not in claims:
        return
    hashed = hashlib.new(
        _HASHES.get(str(header["alg"])[-3:], "sha512"), access_token.encode()
    ).digest()
    expected = _base64url(hashed[: len(hashed) // 2])
    said = claims["at_hash"]
    if not isinstance(said, str) or not hmac.compare_digest(_utf8(said), expected.encode()):
        raise ClaimsError("at_hash does not match the access token")


def identity_from(claims: Mapping[str, Any], config: OIDCSettings, settings: Settings) -> Identity:
    """The identity in these claims. Raises RefusedError without an e-mail address that the provider
    has verified.
    """
    email = claims.get("email")
    if not isinstance(email, str) or not email:
        raise RefusedError(
            "no-email",
            f"{config.name} did not send your e-mail address, which identifies the owner of a"
            " desktop. Your administrator can configure it to send the claim 'email'.",
            claims,
        )
    verified = claims.get("email_verified")
    if verified is None and config.require_verified:
        raise RefusedError(
            "not-verified",
            f"{config.name} does not say whether {email[:254]} is verified. Only an administrator"
            " of VDI can change this: have the claim 'email_verified' sent, or set"
            " gateway.oidc.requireVerified to false. See docs/login.md#verified.",
            claims,
        )
    if verified is not None and verified is not True:
        raise RefusedError(
            "not-verified",
            f"{config.name} reports that {email[:254]} is not verified (email_verified is"
            f" {str(verified)[:40]!r}; allowed: true). Verify it there first.",
            claims,
        )
    try:
        user = check_address(email)
    except ValueError as why:
        message = f"{config.name} returned an address that cannot be used: {why}."
        raise RefusedError("bad-address", message, claims) from None
    groups = groups_in(claims.get(config.groups_claim))
    if len(groups) > _MAX_GROUPS:
        message = (
            f"{config.name} sent {len(groups)} groups in the claim {config.groups_claim!r};"
            f" allowed: at most {_MAX_GROUPS}. Your administrator can have it send only those that"
            " VDI uses."
        )
        raise RefusedError("too-many-groups", message, claims)
    name = claims.get("name")
    return Identity(
        user=user,
        name="".join(filter(str.isprintable, name))[:200] if isinstance(name, str) else "",
        groups=groups,
        admin=user in settings.admin_users or not groups.isdisjoint(settings.admin_groups),
        source=SOURCE_OIDC,
        issuer=config.issuer,
        subject=claims.get("sub", ""),
    )


def lacks_claims(claims: Mapping[str, Any], config: OIDCSettings) -> bool:
    """Whether the ID token lacks a claim that an identity needs."""
    needed = ["email", config.groups_claim] + (
        ["email_verified"] if config.require_verified else []
    )
    return any(name not in claims for name in needed)


def merge_claims(id_token: Mapping[str, Any], user_info: Mapping[str, Any]) -> dict[str, Any]:
    """The claims of the ID token, and those that it lacks from the user info."""
    merged = {**user_info, **id_token}
    # `email_verified` counts only beside its own `email`: else the claim about one address would
    # vouch for another.
    if (
        "email" in id_token
        and "email_verified" not in id_token
        and user_info.get("email") != id_token["email"]
    ):
        merged.pop("email_verified", None)
    if "email" not in id_token and "email_verified" in id_token:
        merged["email_verified"] = user_info.get("email_verified")
    return merged


def groups_in(claim: Any) -> frozenset[str]:
    """Groups of a claim: a list, or one text with commas."""
    if isinstance(claim, str):
        claim = claim.split(",")
    if not isinstance(claim, list):
        return frozenset()
    return normal_groups(
        name for name in claim if isinstance(name, str) and _is_group(name.strip())
    )


def _is_group(name: str) -> bool:
    return len(name) <= _MAX_GROUP_LENGTH and name.isprintable()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class ProviderDownError(Exception):
    """Raised when the provider does not respond, or not as OpenID Connect says; the reason is for
    the log.
    """


class ClientRefusedError(ProviderDownError):
    """Raised when the provider does not accept our client secret, or the access token."""


class Metadata(msgspec.Struct):
    """The provider's metadata, as far as it is needed here."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class _Tokens(msgspec.Struct):
    id_token: str
    access_token: str = ""


class _Keys(msgspec.Struct):
    keys: list[dict[str, Any]]


class OIDCProvider:
    """The identity provider. `redirect_uri`: the gateway's address for the way back."""

    def __init__(
        self,
        config: OIDCSettings,
        settings: Settings,
        *,
        now: Callable[[], float] = time.time,
        http: HttpClient | None = None,
    ) -> None:
        self.config = config
        self.redirect_uri = f"{settings.portal_url}/login/oidc/back"
        self._settings = settings
        self._now = now
        self._http = http
        self._lock = asyncio.Lock()
        self._metadata: Metadata | None = None
        self._metadata_at = 0.0
        self._down: ProviderDownError | None = None
        self._down_at = 0.0
        # The provider's refusal of our secret; discovery works without one.
        self._client_refused: ClientRefusedError | None = None
        self._keys_lock = asyncio.Lock()
        self._keys: KeySet | None = None
        self._keys_at = 0.0

    async def login_url(self, secret: str, state: str) -> str:
        """The provider's address to send the browser to. Raises ProviderDownError."""
        metadata = await self._about(_BEFORE_REDIRECT_SECONDS)
        query = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": self.config.scopes,
            "state": state,
            "nonce": nonce_of(secret, state),
            "code_challenge": challenge_of(verifier_of(secret, state)),
            "code_challenge_method": "S256",
        }
        return _with_query(metadata.authorization_endpoint, query)

    async def logout_url(self, user: str, id_token: str) -> str | None:
        """The provider's address for logging out there, too; None without such a page. `id_token`
        empty: not known.
        """
        try:
            metadata = await self._about(_BEFORE_REDIRECT_SECONDS)
        except ProviderDownError as why:
            log.warning("logging out of %s is not possible now: %s", self.config.issuer, why)
            return None
        if not metadata.end_session_endpoint:
            return None
        query = {
            "client_id": self.config.client_id,
            "post_logout_redirect_uri": f"{self._settings.portal_url}/logged-out",
            "logout_hint": user,
        }
        if id_token:  # without it many providers ask first, or do not come back
            query["id_token_hint"] = id_token
        return _with_query(metadata.end_session_endpoint, query)

    async def identity_of(
        self, code: str, secret: str, state: str, issuer: str | None
    ) -> tuple[Identity, str]:
        """The identity behind a code, and its ID token.

        `issuer`: the parameter `iss` of the way back (RFC 9207), if there was one.
        Raises ProviderDownError, ClaimsError and RefusedError.
        """
        metadata = await self._about()
        expected = (
            metadata.issuer if metadata.authorization_response_iss_parameter_supported else issuer
        )
        if issuer != expected or (issuer is not None and issuer != metadata.issuer):
            raise ClaimsError(f"iss of the response is {issuer!r}; allowed: {metadata.issuer!r}")
        tokens = await self._exchange(metadata, code, verifier_of(secret, state))
        claims = await self._verified(metadata, tokens)
        try:
            check_claims(claims, self.config, nonce_of(secret, state), self._now())
            if (
                lacks_claims(claims, self.config)
                and metadata.userinfo_endpoint
                and tokens.access_token
            ):
                claims = merge_claims(
                    claims, await self._more(metadata, tokens.access_token, claims)
                )
        except ClaimsError as error:
            error.subject = str(claims.get("sub", ""))
            raise
        return identity_from(claims, self.config, self._settings), tokens.id_token

    async def trouble(self) -> str:
        """The reason why the provider does not work for us; empty: it does, or did a few minutes
        ago.
        """
        try:
            await self._about(_BEFORE_REDIRECT_SECONDS if self._down else _CHECK_SECONDS)
        except ProviderDownError as error:
            return f"{self.config.issuer}: {error}"
        if self._client_refused:
            return f"{self.config.issuer}: {self._client_refused}"
        return ""

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def _about(self, fresh: float = _METADATA_SECONDS) -> Metadata:
        async with self._lock:
            if self._metadata is not None and self._now() - self._metadata_at <= fresh:
                return self._metadata
            if self._down is not None and self._now() - self._down_at < _DOWN_SECONDS:
                raise self._down
            try:
                self._metadata = await self._discover()
            except ProviderDownError as error:
                self._down, self._down_at = error, self._now()
                raise
            self._down, self._metadata_at = None, self._now()
            return self._metadata

    async def _discover(self) -> Metadata:
        issuer = self.config.issuer
        metadata = await self._json(
            "GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration", Metadata
        )
        if metadata.issuer != issuer:
            raise ProviderDownError(
                f"its issuer is {metadata.issuer!r}; VDI_OIDC_ISSUER is {issuer!r}"
            )
        secure = {"https", urlsplit(issuer).scheme}
        for name in (
            "authorization_endpoint",
            "token_endpoint",
            "jwks_uri",
            "userinfo_endpoint",
            "end_session_endpoint",
        ):
            url = getattr(metadata, name)
            if url and not _is_address(url, secure):
                raise ProviderDownError(f"its {name} is {url!r}; allowed: https:// addresses")
        return metadata

    async def _exchange(self, metadata: Metadata, code: str, verifier: str) -> _Tokens:
        config = self.config
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": verifier,
        }
        auth = None
        if (
            config.client_secret
            and "client_secret_basic" in metadata.token_endpoint_auth_methods_supported
        ):
            auth = _form_encoded(config.client_id), _form_encoded(config.client_secret)
        else:
            form["client_id"] = config.client_id
            if config.client_secret:
                form["client_secret"] = config.client_secret
        try:
            tokens = await self._json(
                "POST", metadata.token_endpoint, _Tokens, data=form, auth=auth
            )
        except ClientRefusedError as error:
            self._client_refused = error
            raise
        self._client_refused = None
        return tokens

    async def _verified(self, metadata: Metadata, tokens: _Tokens) -> dict[str, Any]:
        """The claims of an ID token, if the provider has signed it. Raises ClaimsError."""
        try:
            try:
                token = jwt.decode(
                    tokens.id_token,
                    await self._key_set(metadata, _METADATA_SECONDS),
                    algorithms=SIGNED_WITH,
                )
            except InvalidKeyIdError:  # it may have a new key
                token = jwt.decode(
                    tokens.id_token,
                    await self._key_set(metadata, _UNKNOWN_KEY_SECONDS),
                    algorithms=SIGNED_WITH,
                )
        except (JoseError, ValueError, RecursionError) as error:
            raise ClaimsError(f"the ID token's signature is not valid: {error}") from error
        check_access_token(token.header, token.claims, tokens.access_token)
        return token.claims

    async def _key_set(self, metadata: Metadata, fresh: float) -> KeySet:
        """The provider's keys, read again after `fresh` seconds: once for all logins that wait."""
        async with self._keys_lock:
            if self._keys is None or self._now() - self._keys_at > fresh:
                self._keys = None
                keys = await self._json("GET", metadata.jwks_uri, _Keys)
                if len(keys.keys) > _MAX_KEYS:
                    raise ProviderDownError(
                        f"it has {len(keys.keys)} keys; allowed: at most {_MAX_KEYS}"
                    )
                self._keys, self._keys_at = _read_keys(keys), self._now()
            return self._keys

    async def _more(
        self, metadata: Metadata, access_token: str, claims: dict[str, Any]
    ) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {access_token}"}
        more = await self._json("GET", metadata.userinfo_endpoint, dict[str, Any], headers=headers)
        if more.get("sub") != claims["sub"]:
            raise ClaimsError(
                f"sub of the user info is {more.get('sub')!r}, but the ID token has"
                f" {claims['sub']!r}"
            )
        return more

    async def _json(self, method: str, url: str, into: type[T], **rest: Any) -> T:
        where = f"{method} {url.partition('?')[0]}"
        if self._http is None:  # made late: it reads all certificates of the system
            self._http = open_client_for_any_host(seconds=_REQUEST_SECONDS)
        try:
            answer = await self._http.request(
                method, url, max_bytes=_MAX_RESPONSE_BYTES, seconds=_REQUEST_SECONDS, **rest
            )
        except HTTP_ERRORS as error:
            raise ProviderDownError(f"{where}: {reason_of(error)}") from error
        if answer.status != 200:
            code = _error_of(answer)
            message = f"{where}: {answer.status} {code}".rstrip()
            if answer.status == 401 or code == "invalid_client":
                raise ClientRefusedError(message)
            # OAuth's response to a code or token that is wrong, old, or used before.
            if answer.status == 400:
                raise ClaimsError(message)
            raise ProviderDownError(message)
        try:
            return answer.json(into)
        except BadResponseError as error:
            raise ProviderDownError(
                f"{where}: the response does not conform to OpenID Connect: {error}"
            ) from error


def _is_address(url: str, schemes: set[str]) -> bool:
    try:
        parts = urlsplit(url)
        is_ours = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        return is_ours and _URL.fullmatch(url) is not None
    except ValueError:
        return False


def _read_keys(found: _Keys) -> KeySet:
    """Keys that verify signatures, without those that cannot be used here (RFC 7517, 5)."""
    keys: list[Key] = []
    for key in found.keys:
        if key.get("use", "sig") != "sig" or key.get("kty") not in _KEY_TYPES:
            continue
        try:
            keys.append(JWKRegistry.import_key(key))
        except (JoseError, ValueError, TypeError, KeyError) as error:
            log.warning("a key of the identity provider cannot be used: %s", error)
    return KeySet(keys)


def _error_of(answer: Response) -> str:
    """OAuth's error code; never the body, which may have tokens in it."""
    try:
        error = answer.json(dict[str, Any]).get("error", "")
    except BadResponseError:
        return ""
    return error[:100] if isinstance(error, str) else ""


def _with_query(url: str, query: dict[str, str]) -> str:
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(query)}"


def _form_encoded(text: str) -> str:
    """The text encoded like a form, as RFC 6749, 2.3.1 has it for Basic."""
    return urlencode({"": text})[1:]
