"""The gateway's environment: defaults, every variable, every refusal."""

import re
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from vdi.cli import gateway
from vdi.gateway import settings as settings_module
from vdi.gateway.settings import DATABASE_URLS, OIDCSettings, Settings, read_settings
from vdi.settings import SettingsError

TURN = "turn.example.com"


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read_settings({"VDI_DOMAIN": " ", "PATH": "/bin"}) == Settings()


def test_urls_have_their_port_where_it_is_not_the_usual_one() -> None:
    assert Settings(domain="d.example").portal_url == "https://portal.d.example"
    settings = Settings(domain="d.example", url_port=8443)
    assert (settings.portal_host, settings.portal_url) == (
        "portal.d.example",
        "https://portal.d.example:8443",
    )
    assert settings.url(settings.host("alice")) == "https://alice.d.example:8443"


def test_every_variable_is_read() -> None:
    settings = read_settings(
        {
            "VDI_PUBLIC_ADDR": ":9000",
            "VDI_INTERNAL_ADDR": "[::1]:9001",
            "VDI_TRUSTED_PROXIES": "10.1.0.0/16, fd00::/8",
            "VDI_DATABASE_URL": "postgresql+asyncpg://u:p@db/vdi",
            "VDI_REDIS_URL": "redis://r:6379/0",
            "VDI_OIDC_ISSUER": "https://id.example.com/realms/x",
            "VDI_OIDC_CLIENT_ID": "vdi",
            "VDI_OIDC_CLIENT_SECRET": "s3cret",
            "VDI_OIDC_REQUIRE_VERIFIED": "false",
            "VDI_ADMIN_USERS": "Root@Example.com, ops@example.com",
            "VDI_ADMIN_GROUPS": "admins,",
            "VDI_LIMITS_FILE": "/etc/vdi/limits.yaml",
            "VDI_LOGIN_IDLE": "1h30m",
            "VDI_METRICS_TOKEN_FILE": "/run/metrics",
            "VDI_MAX_TIMEOUT": "168h",
            "VDI_WEBHOOK_URL": "https://hooks.example.com/vdi",
            "VDI_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "VDI_SMTP_URL": "smtps://vdi:s3cret@mail.example.com:465",
            "VDI_SMTP_FROM": "vdi@example.com",
            "VDI_TURN_URLS": f"turn:{TURN}:3478?transport=udp, turns:{TURN}:5349?transport=tcp",
            "VDI_TURN_SECRET_FILE": "/etc/vdi-turn/secret",
            "VDI_TURN_TTL": "1h",
        }
    )
    assert settings.public_addr == ("0.0.0.0", 9000)
    assert settings.internal_addr == ("::1", 9001)
    assert set(settings.trusted_proxies) == {ip_network("10.1.0.0/16"), ip_network("fd00::/8")}
    assert settings.oidc == OIDCSettings(
        "https://id.example.com/realms/x", "vdi", "s3cret", require_verified=False
    )
    assert settings.admin_users == {"root@example.com", "ops@example.com"}
    assert settings.admin_groups == {"admins"}
    assert settings.limits_file == Path("/etc/vdi/limits.yaml")
    assert settings.cluster.max_timeout == "168h"
    assert settings.login_idle == timedelta(hours=1, minutes=30)
    assert settings.metrics_token_file == Path("/run/metrics")
    assert settings.turn_urls == (
        f"turn:{TURN}:3478?transport=udp",
        f"turns:{TURN}:5349?transport=tcp",
    )
    assert (settings.turn_secret_file, settings.turn_ttl) == (
        Path("/etc/vdi-turn/secret"),
        timedelta(hours=1),
    )
    assert (len(settings.webhook_secret), settings.smtp_from) == (24, "vdi@example.com")
    assert "s3cret" not in repr(settings) and repr(settings.webhook_secret) not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("VDI_NAMESPACE", "Not_A_Name", "the name of a namespace"),
        ("VDI_DOMAIN", "-x", "a domain such as"),
        ("VDI_URL_PORT", "70000", "from 1 to 65535"),
        ("VDI_URL_PORT", "٣", "from 1 to 65535"),
        ("VDI_PUBLIC_ADDR", "8080x", "from 0 to 65535"),
        ("VDI_TRUSTED_PROXIES", "10.0.0.0/33", "networks such as 10.0.0.0/8"),
        ("VDI_OIDC_ISSUER", "http://id.example.com", "an https:// URL"),
        ("VDI_OIDC_SCOPES", "email", "scopes with openid"),
        ("VDI_OIDC_REQUIRE_VERIFIED", "no", "true and false"),
        ("VDI_WEBHOOK_URL", "http://hooks.example.com", "an https:// URL"),
        ("VDI_ADMIN_USERS", "root", "addresses such as"),
        ("VDI_TOKEN_SECONDS", "5", "from 30 to 3600"),
        ("VDI_LOGIN_MAX", "a week", "durations above zero"),
        ("VDI_OPERATOR_ACCOUNT", "vdi-operator", "system:serviceaccount:NAMESPACE:NAME"),
        ("VDI_RECORDINGS", "s3://Recordings", "/FOLDER or s3://BUCKET/PREFIX"),
        ("VDI_LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("VDI_TURN_URLS", f"turn:{TURN}", "turn:HOST:PORT"),
        ("VDI_TURN_URLS", f"turns:{TURN}:5349?transport=udp", "turn:HOST:PORT"),
        ("VDI_TURN_URLS", f"https://{TURN}", "turn:HOST:PORT"),
        ("VDI_TURN_SECRET_FILE", "secret", "an absolute path"),
        ("VDI_TURN_TTL", "1d", "durations above zero"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(
    name: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        read_settings({name: value})
    assert str(refusal.value).startswith(f"{name}={value!r}: ")
    assert allowed in str(refusal.value)


@pytest.mark.parametrize(
    ("one", "value"),
    [
        ("VDI_TURN_URLS", f"turns:{TURN}:5349?transport=tcp"),
        ("VDI_TURN_SECRET_FILE", "/secret"),
        ("VDI_WEBHOOK_URL", "https://hooks.example.com/vdi"),
        ("VDI_SMTP_FROM", "vdi@example.com"),
    ],
)
def test_half_of_a_pair_is_refused(one: str, value: str) -> None:
    with pytest.raises(SettingsError, match="both are required if either is set"):
        read_settings({one: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VDI_WEBHOOK_SECRET", "hunter2"),
        ("VDI_WEBHOOK_SECRET", "whsec_aHVudGVyMg=="),
        ("VDI_SMTP_URL", "https://root:hunter2@mail.example.com"),
        ("VDI_SMTP_URL", "smtp://root:hunter2@mail.example.com/path"),
        ("VDI_DATABASE_URL", "mysql://root:hunter2@db/x"),
        ("VDI_REDIS_URL", "mysql://root:hunter2@db/x"),
    ],
)
def test_a_secret_is_never_shown(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name}=\(not shown\): allowed: ") as refusal:
        read_settings({name: value})
    assert "hunter2" not in str(refusal.value) and "aHVudGVyMg" not in str(refusal.value)
    assert name != "VDI_DATABASE_URL" or DATABASE_URLS in str(refusal.value)


def test_a_password_in_a_setting_is_never_shown() -> None:
    url = "postgresql+asyncpg://u:hunter2@db/x"
    assert "hunter2" not in repr(
        Settings(database_url=url, redis_url=url, oidc=OIDCSettings("i", "c", "hunter2"))
    )


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(SettingsError) as refusal:
        read_settings(
            {"VDI_URL_PORT": "x", "VDI_DOMAIN": "x_y", "VDI_OIDC_ISSUER": "https://id.example.com"}
        )
    assert all(
        name in str(refusal.value) for name in ("VDI_URL_PORT", "VDI_DOMAIN", "VDI_OIDC_CLIENT_ID")
    )


def test_a_misspelt_variable_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean VDI_DATABASE_URL"):
        read_settings({"VDI_DATABASE_URI": "x"})
    others = (
        "VDI_KUBECONFIG",
        "VDI_ENTRY_POINT",
        "VDI_GATEWAY_SERVICE_HOST",
        "VDI_GATEWAY_PORT_8080_TCP_ADDR",
    )
    assert read_settings(dict.fromkeys(others, "x")) == Settings()


def test_the_command_s_help_names_every_variable() -> None:
    source = Path(settings_module.__file__).read_text()
    variables = set(re.findall(r'^    "(VDI_[A-Z_]+)": \(', source, flags=re.MULTILINE))
    assert len(variables) > 20
    assert not [name for name in variables if name not in (gateway.run.__doc__ or "")]


def test_groups_are_read_without_the_case_of_ascii_letters() -> None:
    named = {
        "VDI_ADMIN_GROUPS": "Admins, VDI Admins",
        "VDI_GROUP_NAMESPACES": '{"Engineering": "lab"}',
    }
    settings = read_settings({"VDI_NAMESPACE": "desks,lab", **named})
    assert settings.admin_groups == {"admins", "vdi admins"}
    assert settings.namespace_for({"engineering"}) == "lab"
    with pytest.raises(SettingsError, match="each group once; upper and lower case are the same"):
        read_settings(
            {"VDI_NAMESPACE": "desks,lab", "VDI_GROUP_NAMESPACES": '{"cad": "lab", "CAD": "desks"}'}
        )
