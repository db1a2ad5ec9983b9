"""An OpenID Connect provider: where it is, the way there (authorization code with PKCE), and who came back.

Nothing is asked of it before somebody wants to log in: a provider that is down stops new logins and nothing else.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import JWKRegistry, Key, KeySet

from vdi.gateway.login.logins import Identity
from vdi.gateway.login.oidc import flow
from vdi.gateway.login.oidc.claims import ClaimsError, check_access_token, check_claims, identity_from, lacks, merge
from vdi.gateway.settings import OIDC, Settings
from vdi.http_client import (
    HTTP_ERRORS,
    BadResponseError,
    HttpClient,
    Response,
    open_client_for_any_host,
    reason_of,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

SIGNED_WITH = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")
"""Signatures with the provider's private key: `none`, and those with a shared secret, are not signatures."""
_KINDS = ("RSA", "EC", "OKP")
"""Kinds of keys that make such signatures; `oct` is a shared secret."""
_SECONDS = 10.0
"""For the whole of one request."""
_LARGEST_RESPONSE = 128 * 1024
"""Bytes: the keys of a provider with many of them take about 20 KiB."""
_FRESH = 3600.0
"""Seconds that what the provider says about itself is kept."""
_SURE = 30.0
"""The same before a browser is sent there: a page in words is better than the browser's own "cannot connect"."""
_KEYS_AGAIN = 30.0
"""Seconds between two looks at its keys because of a key that is not among them."""
_DOWN = 5.0
"""Seconds for which a provider that has just not answered is not asked again, so that requests do not queue for it."""


class ProviderDownError(Exception):
    """Raised when the provider does not answer, or not as OpenID Connect says; the words are for the log."""


class Metadata(msgspec.Struct):
    """What a provider says about itself, as far as it is needed here."""

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


class Provider:
    """One provider. `redirect_uri` is the address at which people come back."""

    def __init__(
        self,
        config: OIDC,
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
        self._keys_lock = asyncio.Lock()
        self._keys: KeySet | None = None
        self._keys_at = 0.0

    async def login_url(self, secret: str, state: str) -> str:
        """Where to send the browser. Raises ProviderDownError."""
        metadata = await self._about(_SURE)
        query = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": self.config.scopes,
            "state": state,
            "nonce": flow.nonce_of(secret, state),
            "code_challenge": flow.challenge_of(flow.verifier_of(secret, state)),
            "code_challenge_method": "S256",
        }
        return _with_query(metadata.authorization_endpoint, query)

    async def logout_url(self, user: str) -> str | None:
        """Where the browser can log out of the provider as well; None where the provider has no such page (now)."""
        try:
            metadata = await self._about(_SURE)
        except ProviderDownError as why:
            log.warning("logging out of %s is not possible now: %s", self.config.issuer, why)
            return None
        if not metadata.end_session_endpoint:
            return None
        query = {
            "client_id": self.config.client_id,
            "post_logout_redirect_uri": f"{self._settings.portal_url}/login",
            "logout_hint": user,
        }
        return _with_query(metadata.end_session_endpoint, query)

    async def identity_of(self, code: str, secret: str, state: str, issuer: str | None) -> Identity:
        """Who came back with this code. `issuer` is the parameter `iss` of the way back (RFC 9207), if there was one.

        Raises ProviderDownError, ClaimsError and RefusedError.
        """
        metadata = await self._about()
        expected = metadata.issuer if metadata.authorization_response_iss_parameter_supported else issuer
        if issuer != expected or (issuer is not None and issuer != metadata.issuer):
            raise ClaimsError(f"iss of the response is {issuer!r}; allowed: {metadata.issuer!r}")
        tokens = await self._exchange(metadata, code, flow.verifier_of(secret, state))
        claims = await self._verified(metadata, tokens)
        check_claims(claims, self.config, flow.nonce_of(secret, state), self._now())
        if lacks(claims, self.config) and metadata.userinfo_endpoint and tokens.access_token:
            claims = merge(claims, await self._more(metadata, tokens.access_token, claims))
        return identity_from(claims, self.config, self._settings)

    async def trouble(self) -> str:
        """Why it did not answer when it was last needed; empty: it did, or does now, or was not needed yet."""
        if self._down is None:
            return ""
        try:
            await self._about(_SURE)
        except ProviderDownError as error:
            return f"{self.config.issuer}: {error}"
        return ""

    async def close(self) -> None:
        """Let go of connections."""
        if self._http is not None:
            await self._http.close()

    async def _about(self, fresh: float = _FRESH) -> Metadata:
        async with self._lock:
            if self._metadata is not None and self._now() - self._metadata_at <= fresh:
                return self._metadata
            if self._down is not None and self._now() - self._down_at < _DOWN:
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
        found = await self._json("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration", Metadata)
        if found.issuer != issuer:
            raise ProviderDownError(f"its issuer is {found.issuer!r}; VDI_OIDC_ISSUER is {issuer!r}")
        secure = {"https", urlsplit(issuer).scheme}
        for name in (
            "authorization_endpoint",
            "token_endpoint",
            "jwks_uri",
            "userinfo_endpoint",
            "end_session_endpoint",
        ):
            url = getattr(found, name)
            if url and not _is_address(url, secure):
                raise ProviderDownError(f"its {name} is {url!r}; allowed: https:// addresses")
        return found

    async def _exchange(self, metadata: Metadata, code: str, verifier: str) -> _Tokens:
        config = self.config
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": verifier,
        }
        auth = None
        if config.client_secret and "client_secret_basic" in metadata.token_endpoint_auth_methods_supported:
            auth = _form_encoded(config.client_id), _form_encoded(config.client_secret)
        else:
            form["client_id"] = config.client_id
            if config.client_secret:
                form["client_secret"] = config.client_secret
        return await self._json("POST", metadata.token_endpoint, _Tokens, data=form, auth=auth)

    async def _verified(self, metadata: Metadata, tokens: _Tokens) -> dict[str, Any]:
        """The claims of an ID token that the provider has signed."""
        try:
            try:
                token = jwt.decode(tokens.id_token, await self._key_set(metadata, _FRESH), algorithms=SIGNED_WITH)
            except InvalidKeyIdError:  # it may have a new key
                token = jwt.decode(tokens.id_token, await self._key_set(metadata, _KEYS_AGAIN), algorithms=SIGNED_WITH)
        except (JoseError, ValueError, RecursionError) as error:
            raise ClaimsError(f"the ID token's signature is not valid: {error}") from error
        check_access_token(token.header, token.claims, tokens.access_token)
        return token.claims

    async def _key_set(self, metadata: Metadata, fresh: float) -> KeySet:
        """Its keys, read again after `fresh` seconds: by one login at a time, for all that wait."""
        async with self._keys_lock:
            if self._keys is None or self._now() - self._keys_at > fresh:
                self._keys = None
                found = await self._json("GET", metadata.jwks_uri, _Keys)
                self._keys, self._keys_at = _read_keys(found), self._now()
            return self._keys

    async def _more(self, metadata: Metadata, access_token: str, claims: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {access_token}"}
        more = await self._json("GET", metadata.userinfo_endpoint, dict[str, Any], headers=headers)
        if more.get("sub") != claims["sub"]:
            raise ClaimsError(f"sub of the user info is {more.get('sub')!r}, but the ID token has {claims['sub']!r}")
        return more

    async def _json(self, method: str, url: str, into: type[T], **rest: Any) -> T:
        where = f"{method} {url.partition('?')[0]}"
        if self._http is None:  # not before it is needed: it reads all certificates of the system
            self._http = open_client_for_any_host(seconds=_SECONDS)
        try:
            answer = await self._http.request(method, url, max_bytes=_LARGEST_RESPONSE, seconds=_SECONDS, **rest)
        except HTTP_ERRORS as error:
            raise ProviderDownError(f"{where}: {reason_of(error)}") from error
        if answer.status == 400:  # OAuth's answer to a code or a token that is wrong, old, or used before
            raise ClaimsError(f"{where}: 400 {_error_of(answer)}".rstrip())
        if answer.status != 200:
            raise ProviderDownError(f"{where}: {answer.status} {_error_of(answer)}".rstrip())
        try:
            return answer.json(into)
        except BadResponseError as error:
            raise ProviderDownError(f"{where}: the response does not conform to OpenID Connect: {error}") from error


def _is_address(url: str, schemes: set[str]) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _read_keys(found: _Keys) -> KeySet:
    """Keys that verify signatures. One that cannot be used here is left out (RFC 7517, 5)."""
    keys: list[Key] = []
    for key in found.keys:
        if key.get("use", "sig") != "sig" or key.get("kty") not in _KINDS:
            continue
        try:
            keys.append(JWKRegistry.import_key(key))
        except (JoseError, ValueError, TypeError, KeyError) as error:
            log.warning("a key of the identity provider cannot be used: %s", error)
    return KeySet(keys)


def _error_of(answer: Response) -> str:
    """OAuth's own word for what is wrong, never the body: there may be tokens in it."""
    try:
        error = answer.json(dict[str, Any]).get("error", "")
    except BadResponseError:
        return ""
    return error[:100] if isinstance(error, str) else ""


def _with_query(url: str, query: dict[str, str]) -> str:
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(query)}"


def _form_encoded(text: str) -> str:
    """RFC 6749, 2.3.1: what goes into Basic is encoded like a form first."""
    return urlencode({"": text})[1:]
