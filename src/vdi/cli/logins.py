"""The file with the logins: one token for each gateway, readable by its owner only.

$XDG_CONFIG_HOME/vdi/login.json   (~/.config/vdi/login.json)
{"current": "https://portal.vdi.example.com", "gateways": {"https://...": {"user", "token", "expires", "ca"}}}
"""

import os
import stat
import tempfile
from pathlib import Path

import msgspec

from vdi.cli.errors import COULD_NOT_LOOK, CliError


class Login(msgspec.Struct, omit_defaults=True):
    """The login at one gateway."""

    user: str
    token: str
    # RFC 3339.
    expires: str = ""
    # PEM of the authorities to trust for this gateway alone; empty: the machine's own.
    ca: str = ""

    def __repr__(self) -> str:
        return f"Login({self.user!r})"


class Logins(msgspec.Struct):
    """All gateways that this user is logged in to."""

    current: str = ""
    gateways: dict[str, Login] = {}


def login_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "vdi" / "login.json"


def read_logins() -> Logins:
    """Read the file; no logins without one. A file that others may read is refused."""
    path = login_file()
    try:
        with path.open("rb") as file:
            # The mode of the opened file, not of the name: the file could be exchanged between the
            # two calls.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except FileNotFoundError:
        return Logins()
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}", COULD_NOT_LOOK) from error
    if os.name == "posix" and mode & 0o077:
        raise CliError(
            f"{path} has mode {mode:04o}, so others on this machine may read the tokens in it;"
            " allowed: 0600. Log in again, so that tokens that may have been read become invalid:"
            f" rm {path}; vdi login URL",
            COULD_NOT_LOOK,
        )
    try:
        return msgspec.json.decode(text, type=Logins)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CliError(
            f"{path} is damaged ({error}): remove it and log in again", COULD_NOT_LOOK
        ) from error


def write_logins(logins: Logins) -> None:
    """Write the file atomically."""
    path = login_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Replaced in one step, so that a command that reads meanwhile finds the old logins or the new
    # ones.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".login-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(logins), indent=2) + b"\n")
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
