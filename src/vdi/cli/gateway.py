"""`vdi gateway`: runs the gateway, and manages the people who log in with it.

Local users are in a Secret; the accounts of an identity provider are in the gateway's database,
behind its API. A password is read from standard input or generated here, never taken from the
command line, where others could see it.
"""

import base64
import importlib.util
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from vdi.api.meta import RELEASE_NAMESPACE
from vdi.cli.errors import FINDINGS, USAGE, CliError
from vdi.cli.gateway_client import quote
from vdi.cli.helm_options import locate
from vdi.cli.operator import become
from vdi.cli.options import (
    CLUSTER_OPTIONS,
    PROGRAM,
    Context,
    Kubeconfig,
    KubeConnection,
    Options,
    Yes,
    examples,
    new_app,
    replace_parameter,
)
from vdi.cli.output import (
    ListOutput,
    ListOutputOption,
    Output,
    OutputOption,
    columns,
    print_data,
    print_lines,
)
from vdi.cli.session.backend import Target
from vdi.cli.session.gateway_backend import GatewayBackend
from vdi.cli.session.target import gateway_of, with_backend
from vdi.cli.terminal import confirm, style
from vdi.gateway.login.local_users import (
    USERS_KEY,
    LocalUser,
    Passwords,
    UserFileError,
    change_user,
    new_password,
    read_users,
)
from vdi.kube.errors import AlreadyExists, Conflict, NotFound
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client
from vdi.release.chart import gateway_namespaces
from vdi.session.users import check_address

T = TypeVar("T")
_TRIES = 5
app = new_app()
user_commands = new_app("Users of the gateway: passwords, and whose an address is.")
app.add_typer(user_commands, name="user")

User = Annotated[str, typer.Argument(help="E-mail address.")]
FromStdin = Annotated[
    bool,
    typer.Option(
        "--password-stdin",
        help="Read the password from standard input, one line. Default: a generated one.",
    ),
]


@app.callback()
def gateway() -> None:
    """The portal, the login and the access to desktops."""


@app.command(
    epilog=examples("gateway run", "gateway run --kubeconfig ~/.kube/config --context kind-vdi")
)
def run(
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    Settings are environment variables: VDI_NAMESPACE (vdi-sessions; several with commas),
    VDI_GROUP_NAMESPACES (JSON: group and namespace), VDI_GATEWAY_NAMESPACE (vdi-system), VDI_DOMAIN
    (vdi.localhost), VDI_URL_PORT (443), VDI_PUBLIC_ADDR (0.0.0.0:8080), VDI_INTERNAL_ADDR
    (0.0.0.0:8081), VDI_GATEWAY_URL (that listener of all replicas), VDI_TRUSTED_PROXIES (private
    networks), VDI_DATABASE_URL (sqlite+aiosqlite:////data/vdi.db), VDI_REDIS_URL (for several
    replicas), VDI_KEYS_SECRET (vdi-gateway-keys), VDI_USERS_SECRET (vdi-gateway-users),
    VDI_OIDC_ISSUER, VDI_OIDC_CLIENT_ID, VDI_OIDC_CLIENT_SECRET, VDI_OIDC_SCOPES (openid email
    profile groups), VDI_OIDC_GROUPS_CLAIM (groups), VDI_OIDC_NAME, VDI_OIDC_REQUIRE_VERIFIED
    (true), VDI_ADMIN_USERS, VDI_ADMIN_GROUPS, VDI_AUDITOR_USERS, VDI_AUDITOR_GROUPS,
    VDI_LIMITS_FILE, VDI_MAX_TIMEOUT (no limit), VDI_BRAND_NAME (VDI), VDI_BRAND_LOGO,
    VDI_BRAND_ACCENT, VDI_BRAND_BANNER, VDI_BRAND_TERMS, VDI_BRAND_SUPPORT_URL, VDI_ICON_ORIGINS,
    VDI_RETENTION_DAYS (365), VDI_HASH_FILE_NAMES (false), VDI_TOKEN_SECONDS (300), VDI_LOGIN_IDLE
    (12h), VDI_LOGIN_MAX (168h), VDI_OPERATOR_ACCOUNT, VDI_PROBE_ACCOUNT, VDI_TURN_URLS,
    VDI_TURN_SECRET_FILE, VDI_TURN_TTL (12h), VDI_DOCTOR_RECORD, VDI_RECORDINGS,
    VDI_RECORDINGS_QUOTA, VDI_WEBHOOK_URL, VDI_WEBHOOK_ALLOW_LOCAL, VDI_WEBHOOK_SECRET,
    VDI_SMTP_URL, VDI_SMTP_FROM, VDI_METRICS_TOKEN_FILE, VDI_LOG_LEVEL (info), VDI_LOG_FORMAT (text
    or json).
    """
    if importlib.util.find_spec("starlette") is None:
        raise CliError(
            "the gateway's libraries are not installed: pip install 'vdi-kubernetes[gateway]'",
            USAGE,
        )
    become("vdi.gateway", kubeconfig, context)


@dataclass(frozen=True, slots=True)
class UserSecret:
    """The Secret with the local users. `namespace` is None for the one where the gateway is
    installed.
    """

    namespace: str | None
    secret: str
    kubeconfig: Path | None
    context: str | None

    def read(self) -> tuple[dict[str, LocalUser], list[str]]:
        """Users, and the problems of entries that cannot be used."""

        async def work(client: Client, namespace: str) -> tuple[dict[str, LocalUser], list[str]]:
            return read_users((await self._get(client, namespace))[1])

        return self._run(work)

    def change(self, user: str, to: Callable[[LocalUser | None], LocalUser | None]) -> None:
        """Replace the user's entry by the result of `to`; None deletes it. Concurrent changes by
        others are kept.
        """

        async def work(client: Client, namespace: str) -> None:
            # The write names the version that was read, so it fails where someone else was faster.
            for _ in range(_TRIES):
                version, text = await self._get(client, namespace)
                known = read_users(text)[0].get(user)
                data = {
                    USERS_KEY: (
                        base64.b64encode(change_user(text, user, to(known)).encode()).decode()
                    )
                }
                try:
                    await self._put(client, namespace, version, data)
                except (Conflict, AlreadyExists):
                    continue
                return
            raise CliError(
                f"Secret {self.secret} was changed by others {_TRIES} times in the meantime: try"
                " again"
            )

        self._run(work)

    def _run(self, work: Callable[[Client, str], Awaitable[T]]) -> T:
        connection = KubeConnection(self.namespace or "", self.kubeconfig, self.context)
        connection = locate(connection, gateway_namespaces, "the gateway")
        try:
            return connection.run(lambda client: work(client, connection.namespace))
        except UserFileError as why:
            raise CliError(f"{why}; nothing was changed", FINDINGS) from why

    async def _get(self, client: Client, namespace: str) -> tuple[str, str]:
        """Version and text; both are empty where there is no Secret."""
        try:
            raw = await client.get(SECRETS, self.secret, namespace=namespace, into=dict[str, Any])
        except NotFound:
            return "", ""
        return (
            raw["metadata"]["resourceVersion"],
            base64.b64decode((raw.get("data") or {}).get(USERS_KEY, "")).decode(),
        )

    async def _put(
        self, client: Client, namespace: str, version: str, data: dict[str, str]
    ) -> None:
        if version:
            patch = {"metadata": {"resourceVersion": version}, "data": data}
            await client.patch(SECRETS, self.secret, patch, namespace=namespace, into=msgspec.Raw)
        else:
            new = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": self.secret},
                "data": data,
            }
            await client.create(SECRETS, new, namespace=namespace, into=msgspec.Raw)


_USERS: Options = {
    "namespace": (
        Annotated[
            str | None,
            typer.Option(
                "--namespace",
                "-n",
                envvar="VDI_GATEWAY_NAMESPACE",
                help=(
                    "Namespace of the gateway; default: where it is installed, or"
                    f" {RELEASE_NAMESPACE}."
                ),
            ),
        ],
        None,
    ),
    "secret": (
        Annotated[
            str, typer.Option("--secret", envvar="VDI_USERS_SECRET", help="Secret with the users.")
        ],
        "vdi-gateway-users",
    ),
    **CLUSTER_OPTIONS,
}
with_users = replace_parameter(_USERS, UserSecret)


@user_commands.command(
    epilog=examples(
        "gateway user add alice@example.com --name Alice --group engineering",
        "gateway user add root@example.com --admin --password-stdin < password.txt",
    )
)
@with_users
def add(
    users: UserSecret,
    user: User,
    *,
    name: Annotated[str, typer.Option(help="Display name of the user in the portal.")] = "",
    group: Annotated[
        list[str] | None, typer.Option(help="A group of the user; repeatable.")
    ] = None,
    admin: Annotated[
        bool,
        typer.Option(
            "--admin", help="Make the user an administrator: all desktops, limits, audit log."
        ),
    ] = False,
    password_stdin: FromStdin = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Add a user who logs in with a password. A generated password is printed once. No restart is
    needed.
    """
    address = _address(user)
    password, hashed = _new_password(password_stdin)

    def entry(known: LocalUser | None) -> LocalUser:
        if known is not None:
            raise CliError(
                f"{address} already exists; to set another password: {PROGRAM} gateway user passwd"
                f" {address}",
                FINDINGS,
            )
        return LocalUser(password=hashed, name=name, groups=tuple(group or ()), admin=admin)

    users.change(address, entry)
    _print_password(f"{address} can log in", address, "" if password_stdin else password, output)


@user_commands.command(epilog=examples("gateway user passwd alice@example.com"))
@with_users
def passwd(
    users: UserSecret,
    user: User,
    *,
    password_stdin: FromStdin = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set a new password for a user. The user is logged out everywhere within 30 seconds."""
    address = _address(user)
    password, hashed = _new_password(password_stdin)

    def entry(known: LocalUser | None) -> LocalUser:
        return msgspec.structs.replace(_existing(address, known), password=hashed)

    users.change(address, entry)
    said = f"{address} has a new password and is logged out everywhere within 30 seconds"
    _print_password(said, address, "" if password_stdin else password, output)


@user_commands.command("ls", epilog=examples("gateway user ls", "gateway user ls -o json"))
@with_users
def list_(
    users: UserSecret,
    output: ListOutputOption = ListOutput.TABLE,
) -> None:
    """List the users who log in with a password. Hashes are not shown."""
    accounts, problems = users.read()
    for problem in problems:
        typer.echo(
            style(f"Warning: {problem}; this user cannot log in", fg=typer.colors.YELLOW), err=True
        )
    known = sorted(accounts.items())
    match output:
        case ListOutput.JSON | ListOutput.YAML:
            shown = [
                {
                    "user": user,
                    "name": account.name,
                    "groups": list(account.groups),
                    "admin": account.admin,
                }
                for user, account in known
            ]
            print_data(shown, output)
        case ListOutput.NAME:
            print_lines(user for user, _ in known)
        case ListOutput.TABLE | ListOutput.WIDE:
            if not known:
                typer.echo(
                    f"no user logs in with a password; to add one: {PROGRAM} gateway user add"
                    " ADDRESS",
                    err=True,
                )
                return
            rows = [
                [
                    user,
                    account.name or "-",
                    ",".join(account.groups) or "-",
                    "yes" if account.admin else "-",
                ]
                for user, account in known
            ]
            print_lines(columns(["USER", "NAME", "GROUPS", "ADMIN"], rows))


@user_commands.command(
    epilog=examples(
        "gateway user rm alice@example.com", "gateway user rm alice@example.com --yes -o json"
    )
)
@with_users
def rm(
    users: UserSecret,
    user: User,
    yes: Yes = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Remove a user's password. Logins and API tokens end within 30 seconds; desktops are kept."""
    address = _address(user)

    def entry(known: LocalUser | None) -> None:
        _existing(address, known)

    if not yes and not confirm(
        f"Remove the password of {address} and end their logins and API tokens?"
    ):
        raise CliError("nothing was changed")
    users.change(address, entry)
    typer.echo(f"{address} can no longer log in; open connections end within 30 seconds", err=True)
    if output is not Output.TABLE:
        print_data({"deleted": [address]}, output)


@user_commands.command(
    epilog=examples("gateway user release alice@example.com", "gateway user release --all")
)
@with_backend
def release(
    target: Target,
    user: Annotated[str | None, typer.Argument(help="E-mail address.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All addresses: the provider was rebuilt.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before --all.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let another account of the identity provider log in with this address.

    Ends the address's logins, API tokens and open desktops. Desktops and homes are kept, and are
    those of the account that logs in next. With --all this is so for all addresses: a rebuilt
    provider gives every account another `sub`. For administrators of the portal; needs `vdi login`.
    """
    if (user is None) != every:
        raise CliError("name one address, or --all", USAGE)
    address = _address(user) if user is not None else ""
    at = gateway_of(target, "the gateway keeps whose address it is")

    async def send(backend: GatewayBackend) -> list[str]:
        client = backend.client
        if not every:
            await client.send("POST", f"/admin/users/{quote(address)}/release")
            return [address]
        answer: dict[str, list[str]] = await client.send("POST", "/admin/users/release")
        return answer["released"]

    if every and not yes:
        typer.echo(
            "Everyone who logs in with the identity provider is logged out, you too.", err=True
        )
        typer.echo(
            "The next account that logs in with an address has its desktops and homes.", err=True
        )
        if not confirm("Release all addresses?"):
            raise CliError("nothing was changed")
    released = at.run(send)
    for one in released:
        typer.echo(
            f"the next account of the identity provider that logs in as {one} has this address",
            err=True,
        )
    if every and not released:
        typer.echo("no account of an identity provider has an address", err=True)
    if output is not Output.TABLE:
        print_data({"released": released}, output)


def _address(user: str) -> str:
    try:
        return check_address(user)
    except ValueError as why:
        raise CliError(str(why), USAGE) from None


def _existing(address: str, known: LocalUser | None) -> LocalUser:
    if known is None:
        raise CliError(
            f"there is no user {address}; {PROGRAM} gateway user ls lists the users", FINDINGS
        )
    return known


def _new_password(from_stdin: bool) -> tuple[str, str]:
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = new_password()
    try:
        return password, Passwords().make_hash(password)
    except ValueError as why:
        raise CliError(str(why), USAGE) from None


def _print_password(said: str, address: str, password: str, output: Output) -> None:
    # The sentence goes to stderr, so that the password alone can be piped on.
    if output is not Output.TABLE:
        print_data({"user": address} | ({"password": password} if password else {}), output)
        return
    typer.echo(
        said if not password else f"{said}; the password, which is shown only once:", err=True
    )
    if password:
        typer.echo(password)
