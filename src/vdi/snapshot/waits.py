"""The address that a container waits for, read from its command line. Pure.

Values of its environment are only looked at: an address has no user and no password in it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_VARIABLE = re.compile(r"\$(?:\((\w+)\)|\{(\w+)(?::?-[^}]*)?\}|(\w+))")
_URL = re.compile(r"(https?)://(?:[^\s/@\"']+@)?([\w.-]+)(?::(\d+))?(/[^\s\"'?;)]*)?")
_HOST = re.compile(r"(?:^|\s)(?:-h|--host)[=\s]*\"?([\w.-]+)")
_PORT = re.compile(r"(?:^|\s)(?:-p|--port)[=\s]*\"?(\d+)")
_NC = re.compile(r"\bnc\s+(?:-\w+\s+(?:\d+\s+)?)*([\w.-]+)\s+(\d+)")
_LOOKUP = re.compile(r"\b(?:nslookup|getent\s+hosts)\s+\"?([\w.-]+)")
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "redis": 6379}


@dataclass(frozen=True, slots=True)
class Target:
    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_tables(self) -> bool:
        """Whether it waits for what is in the database, beyond its answer."""
        return self.scheme == "postgresql" and self.path == "/zones"


def read_wait(command: Iterable[str], environment: Mapping[str, str]) -> str:
    """The address that this container waits for; empty where its command line does not say."""
    text = _VARIABLE.sub(
        lambda match: environment.get(next(name for name in match.groups() if name), ""),
        " ".join(command),
    )
    readers = (_database, _redis, _url, _connection, _lookup)
    return next((address for read in readers if (address := read(text, environment))), "")


def parse_wait(address: str) -> Target | None:
    """The address taken apart; None for an empty one."""
    if not address:
        return None
    pods = urlsplit(address)
    return Target(
        pods.scheme, pods.hostname or "", pods.port or _PORTS.get(pods.scheme, 0), pods.path
    )


def _after(program: str, text: str) -> str:
    """The rest of the line on which this program is called; empty where it is not."""
    match = re.search(rf"\b{program}\b([^\n;|]*)", text)
    return match[1] if match else ""


def _database(text: str, given: Mapping[str, str]) -> str:
    query = _after("psql", text)
    called = query or _after("pg_isready", text)
    if not called:
        return ""
    host, port = _HOST.search(called), _PORT.search(called)
    if host:
        name = host[1]
    else:
        name = given.get("PGHOST") or given.get("POSTGRES_HOST", "")
    number = port[1] if port else given.get("PGPORT") or "5432"
    tables = "/zones" if query and "zones" in text else ""
    if name:
        return f"postgresql://{name}:{number}{tables}"
    return ""


def _redis(text: str, _: Mapping[str, str]) -> str:
    called = _after("redis-cli", text)
    host, port = _HOST.search(called), _PORT.search(called)
    if host is None:
        return ""
    return f"redis://{host[1]}:{port[1] if port else 6379}"


def _url(text: str, _: Mapping[str, str]) -> str:
    match = _URL.search(text)
    if match is None:
        return ""
    scheme, host, port, path = match.groups()
    return f"{scheme}://{host}:{port or _PORTS[scheme]}{path or '/'}"


def _connection(text: str, _: Mapping[str, str]) -> str:
    match = _NC.search(text)
    return f"tcp://{match[1]}:{match[2]}" if match else ""


def _lookup(text: str, _: Mapping[str, str]) -> str:
    match = _LOOKUP.search(text)
    return f"dns://{match[1]}" if match else ""
