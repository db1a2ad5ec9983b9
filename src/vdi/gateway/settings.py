"""The gateway's settings: environment variables `VDI_*`, which the chart writes from its values,
read once at start.

A new one is a field, an entry of `_VARIABLES`, and a line in the help of `vdi gateway run`.
"""

import re
from base64 import b64decode
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from vdi.api.meta import RELEASE_NAMESPACE
from vdi.cluster.units import amount, parse_duration
from vdi.gateway.brand import Brand
from vdi.gateway.rights import normal_groups
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.naming import normal_name
from vdi.session.users import check_address
from vdi.settings import (
    FORMAT,
    LABEL,
    LEVEL,
    METRICS_TOKEN_FILE,
    SUBDOMAIN,
    SettingsError,
    Variables,
    address,
    duration,
    internal_url,
    matching,
    namespaces,
    number,
    read_variables,
    truth,
)

Network = IPv4Network | IPv6Network
_TURN_URL = re.compile(
    r"(turn:([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}\?transport=(udp|tcp)"
    r"|turns:([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}\?transport=tcp)"
)
# Only the operator needs the true name; here it says that there is a gateway.
_SOME_MIDDLEWARE = "vdi-edge"

_ORIGIN = re.compile(r"https://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")
# Where Traefik's pods are in most clusters.
PRIVATE = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,127.0.0.0/8,::1/128,fc00::/7"
DATABASE_DRIVERS = ("sqlite+aiosqlite", "postgresql+asyncpg")
# What a database's URL may look like: one for each of the drivers.
DATABASE_URLS = (
    "sqlite+aiosqlite:////data/vdi.db, or postgresql+asyncpg://user:password@host/database"
)
_SMTP_URL = r"smtps?://([^\s/@:]+:[^\s/@:]*@)?([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?"
_RECORDINGS = r"/.+|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*"
# 24 bytes or more; the ends are those that are valid in base64.
_WEBHOOK_SECRET = matching(
    r"whsec_([A-Za-z0-9+/]{4}){8,21}([A-Za-z0-9+/]{2}(==|[A-Za-z0-9+/]=))?",
    "whsec_ and 24 to 64 random bytes in base64",
)
_ACCOUNT = matching(
    rf"system:serviceaccount:{LABEL}:{SUBDOMAIN}", "system:serviceaccount:NAMESPACE:NAME"
)
_OF_BRAND = tuple(choice.name for choice in fields(Brand))
# Variables that may hold a password: their value is in no message.
_SECRET = frozenset(
    {
        "VDI_DATABASE_URL",
        "VDI_REDIS_URL",
        "VDI_OIDC_CLIENT_SECRET",
        "VDI_WEBHOOK_SECRET",
        "VDI_SMTP_URL",
    }
)
# Variables of which both or none are set.
_PAIRS = (
    ("VDI_TURN_URLS", "VDI_TURN_SECRET_FILE"),
    ("VDI_WEBHOOK_URL", "VDI_WEBHOOK_SECRET"),
    ("VDI_SMTP_URL", "VDI_SMTP_FROM"),
)


@dataclass(frozen=True, slots=True)
class OIDCSettings:
    """A provider of single sign-on."""

    # VDI_OIDC_ISSUER: its URL, as it calls itself in its tokens.
    issuer: str
    # VDI_OIDC_CLIENT_ID.
    client_id: str
    # VDI_OIDC_CLIENT_SECRET; empty: a public client, which has PKCE alone.
    client_secret: str = field(default="", repr=False)
    # VDI_OIDC_SCOPES, separated by spaces.
    scopes: str = "openid email profile groups"
    # VDI_OIDC_GROUPS_CLAIM: the claim that lists the person's groups.
    groups_claim: str = "groups"
    # VDI_OIDC_NAME: what the button at login says.
    name: str = "single sign-on"
    # VDI_OIDC_REQUIRE_VERIFIED: whether an address counts only with `email_verified: true`.
    require_verified: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a gateway process."""

    # VDI_NAMESPACE: where sessions live; several with commas, as in `desks,lab`.
    namespaces: tuple[str, ...] = ("vdi-sessions",)
    # VDI_GROUP_NAMESPACES, such as `{"engineering": "lab"}`: where a member of the group gets new
    # sessions.
    group_namespaces: Mapping[str, str] = field(default_factory=dict)
    # VDI_GATEWAY_NAMESPACE: where the gateway's own Secrets are.
    gateway_namespace: str = RELEASE_NAMESPACE
    # VDI_DOMAIN: the portal answers at `portal.<domain>`, desktops at `<label>.<domain>`.
    domain: str = "vdi.localhost"
    # VDI_URL_PORT: port of all URLs as browsers see it; left out of them when it is 443.
    url_port: int = 443
    # First label of the portal's host; no session may have it.
    portal_label: str = "portal"
    # VDI_PUBLIC_ADDR: behind Traefik.
    # Traefik comes from outside the pod.
    public_addr: tuple[str, int] = ("0.0.0.0", 8080)  # noqa: S104
    # VDI_INTERNAL_ADDR: /edge/verify, /internal/ended, /healthz, /readyz, /metrics.
    # Probes, Traefik and the operator come from outside the pod, too.
    internal_addr: tuple[str, int] = ("0.0.0.0", 8081)  # noqa: S104
    # VDI_GATEWAY_URL: the internal listener of all replicas, by their Service; empty: there is only
    # this one.
    internal_url: str = ""
    # VDI_TRUSTED_PROXIES, separated by commas: from these addresses X-Forwarded-For is believed.
    trusted_proxies: tuple[Network, ...] = tuple(ip_network(text) for text in PRIVATE.split(","))
    # VDI_DATABASE_URL: sqlite+aiosqlite:///PATH or postgresql+asyncpg://USER:PASSWORD@HOST/NAME.
    database_url: str = field(default="sqlite+aiosqlite:////data/vdi.db", repr=False)
    # VDI_REDIS_URL: what several replicas share; empty: there is only one replica.
    redis_url: str = field(default="", repr=False)
    # VDI_KEYS_SECRET: Secret with the keys that sign desktops' tokens, in `gateway_namespace`.
    keys_secret: str = "vdi-gateway-keys"  # noqa: S105 -- a name
    # VDI_USERS_SECRET: Secret with the local users, in `gateway_namespace`.
    users_secret: str = "vdi-gateway-users"  # noqa: S105 -- a name
    # VDI_OIDC_ISSUER and its companions; None: local users only.
    oidc: OIDCSettings | None = None
    # VDI_ADMIN_USERS, separated by commas: e-mail addresses of administrators, however they log in.
    admin_users: frozenset[str] = frozenset()
    # VDI_ADMIN_GROUPS, separated by commas: groups whose members are administrators.
    admin_groups: frozenset[str] = frozenset()
    # VDI_AUDITOR_USERS and VDI_AUDITOR_GROUPS, likewise: who reads everyone's history, audit and
    # transfers, no more.
    auditor_users: frozenset[str] = frozenset()
    auditor_groups: frozenset[str] = frozenset()
    # VDI_MAX_TIMEOUT: the longest run of a session whose template has no `lifecycle.maxTimeout`, as
    # the operator has it; None: there is no limit.
    max_timeout: str | None = None
    # VDI_LIMITS_FILE: YAML, see `limits`; None: no limits.
    limits_file: Path | None = None
    # VDI_BRAND_NAME and its companions.
    brand: Brand = field(default_factory=Brand)
    # VDI_ICON_ORIGINS, separated by commas: from where the portal may load icons of templates, such
    # as https://icons.example.com; empty: it loads nothing from elsewhere.
    icon_origins: tuple[str, ...] = ()
    # VDI_RETENTION_DAYS: how long history and audit are kept.
    retention_days: int = 365
    # VDI_HASH_FILE_NAMES: the audit has the names of files as SHA-256.
    hash_file_names: bool = False
    # VDI_TOKEN_SECONDS: life of a desktop's token; it is renewed while in use.
    token_seconds: int = 300
    # VDI_LOGIN_IDLE: a login that is not used for so long has ended.
    login_idle: timedelta = timedelta(hours=12)
    # VDI_LOGIN_MAX: a login lasts no longer than this, whatever is done with it.
    login_max: timedelta = timedelta(days=7)
    # VDI_OPERATOR_ACCOUNT: who may report a session's end.
    operator_account: str = f"system:serviceaccount:{RELEASE_NAMESPACE}:vdi-operator"
    # VDI_PROBE_ACCOUNT: who gets API tokens of the user `vdi-probe@vdi.invalid`; empty: there is no
    # probe CronJob.
    probe_account: str = ""
    # VDI_TURN_URLS, separated by commas: TURN servers that share one secret; a browser gets all.
    # Empty: none.
    turn_urls: tuple[str, ...] = ()
    # VDI_TURN_SECRET_FILE: file with the secret that gateway and TURN server share; read again each
    # time.
    turn_secret_file: Path | None = None
    # VDI_TURN_TTL: how long a page's TURN credentials hold; it asks for them once, when it is
    # loaded.
    turn_ttl: timedelta = timedelta(hours=12)
    # VDI_WEBHOOK_URL: where every notice is posted; empty: nowhere.
    webhook_url: str = ""
    # VDI_WEBHOOK_ALLOW_LOCAL: whether the webhook may lead to a loopback, link-local or metadata
    # address.
    webhook_allow_local: bool = False
    # VDI_WEBHOOK_SECRET: key of the signatures, as `whsec_` and base64.
    webhook_secret: bytes = field(default=b"", repr=False)
    # VDI_SMTP_URL: server for notices by e-mail, smtps://USER:PASSWORD@HOST:465 (TLS) or
    # smtp://...:587 (STARTTLS); empty: none.
    smtp_url: str = field(default="", repr=False)
    # VDI_SMTP_FROM: sender of the e-mail.
    smtp_from: str = ""
    # VDI_RECORDINGS: folder that all replicas share, or s3://BUCKET/PREFIX, for recordings; empty:
    # none is kept.
    recordings: str = ""
    # VDI_RECORDINGS_QUOTA: bytes that all recordings together may take; None: what the folder's
    # volume has.
    recordings_quota: int | None = None
    # VDI_DOCTOR_RECORD: ConfigMap that the doctor's CronJob writes, in `gateway_namespace`; empty:
    # no CronJob.
    doctor_record: str = ""
    # VDI_METRICS_TOKEN_FILE: the token that whoever reads /metrics sends; without the file no one
    # may.
    metrics_token_file: Path = METRICS_TOKEN_FILE
    # VDI_LOG_LEVEL: debug, info, warning or error.
    log_level: str = "info"
    # VDI_LOG_FORMAT: text (`key=value`) or json (one object per line).
    log_format: str = "text"

    def namespace_for(self, groups: Collection[str]) -> str:
        """Namespace of a new session of a member of these groups: the first of `namespaces` that a
        group has.
        """
        chosen = set()
        for group, namespace in self.group_namespaces.items():
            if group in groups:
                chosen.add(namespace)
        return next(
            (namespace for namespace in self.namespaces if namespace in chosen), self.namespaces[0]
        )

    @property
    def cluster(self) -> ClusterSettings:
        """The operator's settings, as far as the gateway needs them to allow or refuse what a
        person requests.
        """
        return ClusterSettings(max_timeout=self.max_timeout, edge_middleware=_SOME_MIDDLEWARE)

    @property
    def portal_host(self) -> str:
        """Host name of the portal, without port."""
        return self.host(self.portal_label)

    @property
    def portal_url(self) -> str:
        """URL of the portal, without a slash at its end; also the issuer of desktops' tokens."""
        return self.url(self.portal_host)

    def host(self, label: str) -> str:
        """Host name of a desktop, without port."""
        return f"{label}.{self.domain}"

    def url(self, host: str) -> str:
        """URL of a host as browsers see it, without a slash at its end."""
        return f"https://{host}" + ("" if self.url_port == 443 else f":{self.url_port}")


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Settings from the environment; what is unset or empty has its default.

    Raises SettingsError with everything that is wrong at once.
    """
    values, problems = read_variables(environ, _VARIABLES, _SECRET)
    of_oidc = {
        field.name: values.pop(f"oidc_{field.name}")
        for field in fields(OIDCSettings)
        if f"oidc_{field.name}" in values
    }
    brand = Brand(
        **{name: values.pop(f"brand_{name}") for name in _OF_BRAND if f"brand_{name}" in values}
    )
    if of_oidc and not {"issuer", "client_id"} <= of_oidc.keys():
        problems.append(
            "VDI_OIDC_ISSUER and VDI_OIDC_CLIENT_ID: both are required if any VDI_OIDC_ variable"
            " is set"
        )
    for one, other in _PAIRS:
        if not problems and (_VARIABLES[one][0] in values) != (_VARIABLES[other][0] in values):
            problems.append(f"{one} and {other}: both are required if either is set")
    known = values.get("namespaces", Settings().namespaces)
    for group, namespace in values.get("group_namespaces", {}).items():
        if namespace not in known:
            problems.append(
                f"VDI_GROUP_NAMESPACES: {group}: {namespace!r}: allowed: {', '.join(known)}"
            )
    if problems:
        raise SettingsError("; ".join(problems))
    return Settings(oidc=OIDCSettings(**of_oidc) if of_oidc else None, brand=brand, **values)


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(word) for word in _words(text))
    except ValueError as why:
        raise ValueError(
            f"{why}; allowed: networks such as 10.0.0.0/8, separated by commas"
        ) from why


def _database(text: str) -> str:
    if urlsplit(text).scheme not in DATABASE_DRIVERS:
        raise ValueError(f"allowed: {DATABASE_URLS}")
    return text


def _redis(text: str) -> str:
    if urlsplit(text).scheme not in ("redis", "rediss", "unix"):
        raise ValueError("allowed: redis://HOST:PORT/NUMBER, rediss://... (TLS) and unix://PATH")
    return text


def _https_url(text: str) -> str:
    parts = urlsplit(text)
    local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if (
        not parts.hostname
        or parts.query
        or parts.fragment
        or parts.scheme not in ("https", *(["http"] * local))
    ):
        raise ValueError("allowed: an https:// URL without query (http:// on this machine only)")
    return text


def _turn_urls(text: str) -> tuple[str, ...]:
    urls = tuple(word.strip() for word in text.split(","))
    if not all(_TURN_URL.fullmatch(url) for url in urls):
        raise ValueError(
            "allowed: turn:HOST:PORT?transport=udp, ...=tcp and turns:HOST:PORT?transport=tcp"
        )
    return urls


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(word.strip() for word in text.split(","))
    if not all(_ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("allowed: https://HOST and https://HOST:PORT, separated by commas")
    return origins


def _bytes(text: str) -> int:
    if (size := amount("storage", text)) <= 0:
        raise ValueError("allowed: an amount above zero, such as 500Gi")
    return size


def _words(text: str) -> frozenset[str]:
    return frozenset(filter(None, (word.strip() for word in text.split(","))))


def _group_namespaces(text: str) -> dict[str, str]:
    try:
        given = msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError as error:
        raise ValueError(
            'allowed: JSON with groups and namespaces, such as {"engineering": "lab"}'
        ) from error
    named = {normal_name(group): namespace for group, namespace in given.items()}
    if len(named) < len(given):
        raise ValueError("allowed: each group once; upper and lower case are the same")
    return named


def _users(text: str) -> frozenset[str]:
    return frozenset(check_address(word) for word in _words(text))


_VARIABLES: Variables = {
    "VDI_NAMESPACE": ("namespaces", namespaces),
    "VDI_GROUP_NAMESPACES": ("group_namespaces", _group_namespaces),
    "VDI_GATEWAY_NAMESPACE": ("gateway_namespace", matching(LABEL, "the name of a namespace")),
    "VDI_DOMAIN": ("domain", matching(SUBDOMAIN, "a domain such as vdi.example.com")),
    "VDI_URL_PORT": ("url_port", number(1, 65535)),
    "VDI_PUBLIC_ADDR": ("public_addr", address),
    "VDI_INTERNAL_ADDR": ("internal_addr", address),
    "VDI_GATEWAY_URL": ("internal_url", internal_url),
    "VDI_TRUSTED_PROXIES": ("trusted_proxies", _networks),
    "VDI_DATABASE_URL": ("database_url", _database),
    "VDI_REDIS_URL": ("redis_url", _redis),
    "VDI_KEYS_SECRET": ("keys_secret", matching(SUBDOMAIN, "the name of a Secret")),
    "VDI_USERS_SECRET": ("users_secret", matching(SUBDOMAIN, "the name of a Secret")),
    "VDI_OIDC_ISSUER": ("oidc_issuer", _https_url),
    "VDI_OIDC_CLIENT_ID": ("oidc_client_id", str),
    "VDI_OIDC_CLIENT_SECRET": ("oidc_client_secret", str),
    "VDI_OIDC_SCOPES": (
        "oidc_scopes",
        matching(r"(.* )?openid( .*)?", "scopes with openid among them"),
    ),
    "VDI_OIDC_GROUPS_CLAIM": ("oidc_groups_claim", str),
    "VDI_OIDC_NAME": ("oidc_name", str),
    "VDI_OIDC_REQUIRE_VERIFIED": ("oidc_require_verified", truth),
    "VDI_ADMIN_USERS": ("admin_users", _users),
    "VDI_ADMIN_GROUPS": ("admin_groups", lambda text: normal_groups(text.split(","))),
    "VDI_AUDITOR_USERS": ("auditor_users", _users),
    "VDI_AUDITOR_GROUPS": ("auditor_groups", lambda text: normal_groups(text.split(","))),
    "VDI_MAX_TIMEOUT": ("max_timeout", duration),
    "VDI_LIMITS_FILE": ("limits_file", Path),
    "VDI_BRAND_NAME": (
        "brand_name",
        matching(r"\S(.{0,62}\S)?", "a name of at most 64 characters"),
    ),
    "VDI_BRAND_LOGO": (
        "brand_logo",
        matching(r"data:image/.{1,16384}", "a data:image/ URL of at most 16384 characters"),
    ),
    "VDI_BRAND_ACCENT": ("brand_accent", matching("#[0-9a-fA-F]{6}", "a colour such as #2f5bd0")),
    "VDI_BRAND_BANNER": ("brand_banner", str),
    "VDI_BRAND_TERMS": ("brand_terms", str),
    "VDI_BRAND_SUPPORT_URL": (
        "brand_support_url",
        matching(r"(https://|mailto:)\S+", "an https:// or mailto: URL"),
    ),
    "VDI_ICON_ORIGINS": ("icon_origins", _origins),
    "VDI_RETENTION_DAYS": ("retention_days", number(1, 36500)),
    "VDI_HASH_FILE_NAMES": ("hash_file_names", truth),
    "VDI_TOKEN_SECONDS": ("token_seconds", number(30, 3600)),
    "VDI_LOGIN_IDLE": ("login_idle", parse_duration),
    "VDI_LOGIN_MAX": ("login_max", parse_duration),
    "VDI_OPERATOR_ACCOUNT": ("operator_account", _ACCOUNT),
    "VDI_PROBE_ACCOUNT": ("probe_account", _ACCOUNT),
    "VDI_TURN_URLS": ("turn_urls", _turn_urls),
    "VDI_TURN_SECRET_FILE": (
        "turn_secret_file",
        lambda text: Path(matching("/.+", "an absolute path")(text)),
    ),
    "VDI_TURN_TTL": ("turn_ttl", parse_duration),
    "VDI_WEBHOOK_URL": ("webhook_url", _https_url),
    "VDI_WEBHOOK_ALLOW_LOCAL": ("webhook_allow_local", truth),
    "VDI_WEBHOOK_SECRET": (
        "webhook_secret",
        lambda text: b64decode(_WEBHOOK_SECRET(text).removeprefix("whsec_")),
    ),
    "VDI_SMTP_URL": (
        "smtp_url",
        matching(_SMTP_URL, "smtps://USER:PASSWORD@HOST:PORT (TLS) and smtp://... (STARTTLS)"),
    ),
    "VDI_SMTP_FROM": ("smtp_from", check_address),
    "VDI_RECORDINGS": ("recordings", matching(_RECORDINGS, "/FOLDER or s3://BUCKET/PREFIX")),
    "VDI_RECORDINGS_QUOTA": ("recordings_quota", _bytes),
    "VDI_DOCTOR_RECORD": ("doctor_record", matching(SUBDOMAIN, "the name of a ConfigMap")),
    "VDI_METRICS_TOKEN_FILE": ("metrics_token_file", Path),
    "VDI_LOG_LEVEL": ("log_level", LEVEL),
    "VDI_LOG_FORMAT": ("log_format", FORMAT),
}
