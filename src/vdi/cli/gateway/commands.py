"""`vdi gateway`: run the gateway by hand or as the program of its container, and the people who log in with it."""

import importlib.util

import typer

from vdi.cli.become import become
from vdi.cli.errors import USAGE, CliError
from vdi.cli.gateway.user import app as user_commands
from vdi.cli.options import Context, Kubeconfig, examples

app = typer.Typer(no_args_is_help=True)
app.add_typer(user_commands, name="user")


@app.callback()
def gateway() -> None:
    """The portal, the login and the access to desktops."""


@app.command(epilog=examples("gateway run", "gateway run --kubeconfig ~/.kube/config --context kind-vdi"))
def run(
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    Settings are environment variables: VDI_NAMESPACE (vdi-sessions; several with commas), VDI_GROUP_NAMESPACES (JSON:
    group and namespace), VDI_GATEWAY_NAMESPACE (vdi-system), VDI_DOMAIN
    (vdi.localhost), VDI_URL_PORT (443), VDI_PUBLIC_ADDR (0.0.0.0:8080), VDI_INTERNAL_ADDR (0.0.0.0:8081),
    VDI_TRUSTED_PROXIES (private networks), VDI_DATABASE_URL (sqlite+aiosqlite:////data/vdi.db), VDI_REDIS_URL (for
    several replicas), VDI_KEYS_SECRET (vdi-gateway-keys), VDI_USERS_SECRET (vdi-gateway-users), VDI_OIDC_ISSUER,
    VDI_OIDC_CLIENT_ID, VDI_OIDC_CLIENT_SECRET, VDI_OIDC_SCOPES (openid email profile groups), VDI_OIDC_GROUPS_CLAIM
    (groups), VDI_OIDC_NAME, VDI_OIDC_REQUIRE_VERIFIED (true), VDI_ADMIN_USERS, VDI_ADMIN_GROUPS,
    VDI_LIMITS_FILE, VDI_MAX_TIMEOUT (no limit), VDI_BRAND_NAME (VDI), VDI_BRAND_LOGO,
    VDI_BRAND_ACCENT, VDI_BRAND_BANNER, VDI_BRAND_TERMS, VDI_BRAND_SUPPORT_URL,
    VDI_ICON_ORIGINS, VDI_RETENTION_DAYS (365), VDI_TOKEN_SECONDS (300), VDI_LOGIN_IDLE (12h), VDI_LOGIN_MAX (168h),
    VDI_OPERATOR_ACCOUNT, VDI_PROBE_ACCOUNT, VDI_TURN_URLS, VDI_TURN_SECRET_FILE, VDI_TURN_TTL (12h), VDI_DOCTOR_RECORD,
    VDI_METRICS_TOKEN_FILE, VDI_LOG_LEVEL (info), VDI_LOG_FORMAT (text or json).
    """
    if importlib.util.find_spec("starlette") is None:
        raise CliError("the gateway's libraries are not installed: pip install 'vdi-kubernetes[gateway]'", USAGE)
    become("vdi.gateway", kubeconfig, context)
