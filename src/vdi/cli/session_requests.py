"""What the session commands ask of the cluster, one function for each. Objects and values out, nothing printed."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cli.failures import CommandFailedError
from vdi.cli.following import following
from vdi.cli.output import Raw
from vdi.cli.session_view import phase
from vdi.cli.session_wish import Wish, manifest
from vdi.kube.errors import AlreadyExists, BadRequest, Forbidden, NotFound
from vdi.kube.resource import CLAIMS, SECRETS
from vdi.kube.transport import Client
from vdi.operator.kinds import SESSIONS, TEMPLATES
from vdi.session.children.secret import PASSWORD_KEY, USERNAME
from vdi.session.conditions import Phase
from vdi.session.naming import home_claim_name, pod_name, secret_name


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a person needs to open a desktop."""

    url: str
    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Removal:
    """One session that is to be removed, and the home that would go with it (None: no files are lost)."""

    session: VDISession
    claim_to_delete: str | None
    home_lost: str | None


def as_session(raw: Raw) -> VDISession:
    """The session in what the API server sent."""
    return msgspec.convert(raw, VDISession)


async def create_session(client: Client, wish: Wish, namespace: str) -> Raw:
    """Create the session; one that is there already is an error that says whose it is."""
    template = None
    if wish.names_resources:
        try:
            template = await client.get(TEMPLATES, wish.template, into=VDITemplate)
        except (NotFound, Forbidden):
            template = (
                None  # the operator will say that it is missing; who may not read templates gets the schema's defaults
            )
    wanted = manifest(wish, namespace, template)
    try:
        return await client.create(SESSIONS, wanted, namespace=namespace, into=dict[str, Any])
    except AlreadyExists as error:
        raise CommandFailedError(await _who_is_there(client, namespace, wanted["metadata"]["name"])) from error


async def _who_is_there(client: Client, namespace: str, name: str) -> str:
    there = await get_session(client, namespace, name)
    return (
        f"session {name} exists already in namespace {namespace}: {there.spec.user}, template {there.spec.template},"
        f" {phase(there)}. Open that one, or give this one another NAME"
    )


async def get_raw(client: Client, namespace: str, name: str) -> Raw:
    """The session as the API server has it."""
    try:
        return await client.get(SESSIONS, name, namespace=namespace, into=dict[str, Any])
    except NotFound as error:
        if error.api_missing:
            raise
        raise CommandFailedError(f"there is no session {name} in namespace {namespace}") from error


async def get_session(client: Client, namespace: str, name: str) -> VDISession:
    """The session as a struct."""
    return as_session(await get_raw(client, namespace, name))


async def list_raw(client: Client, namespace: str | None, user: str | None) -> list[Raw]:
    """Sessions of a namespace (None: of all), of one user or of all, oldest first."""
    found = await client.list(SESSIONS, namespace=namespace, into=dict[str, Any])
    mine = [each for each in found if user is None or each["spec"].get("user") == user]
    return sorted(mine, key=lambda each: (each["metadata"]["creationTimestamp"], each["metadata"]["name"]))


async def open_credentials(client: Client, namespace: str, name: str) -> Credentials:
    """URL, user and password of a running desktop."""
    session = await get_session(client, namespace, name)
    if session.status.phase != Phase.RUNNING or not session.status.url:
        why = session.status.message or "its status does not say why"
        raise CommandFailedError(f"session {name} is {phase(session)}, so there is nothing to open: {why}")
    secret_of = secret_name(name)
    try:
        secret = await client.get(SECRETS, secret_of, namespace=namespace, into=dict[str, Any])
        password = base64.b64decode(secret["data"][PASSWORD_KEY]).decode()
    except NotFound as error:
        raise CommandFailedError(f"the password's Secret {secret_of} is not in namespace {namespace}") from error
    except (KeyError, ValueError) as error:
        said = f"Secret {secret_of} in namespace {namespace} has no key {PASSWORD_KEY!r} that can be read"
        raise CommandFailedError(said) from error
    return Credentials(url=session.status.url, user=USERNAME, password=password)


async def plan_removals(
    client: Client, namespace: str, names: Sequence[str], *, delete_home: bool
) -> list[Removal | CommandFailedError]:
    """What `rm` would do to each, before anything is done: a removal, or why not."""
    return list(await asyncio.gather(*(_plan(client, namespace, name, delete_home) for name in names)))


async def _plan(client: Client, namespace: str, name: str, delete_home: bool) -> Removal | CommandFailedError:
    try:
        session = await get_session(client, namespace, name)
        wish = session.spec.persistence
        if wish and wish.enabled is False:
            return Removal(session, None, None)
        retained = wish is None or wish.retain
        claim = home_claim_name(
            session_name=name, user=session.spec.user, template=session.spec.template, retain=retained
        )
        if not retained:
            return Removal(session, None, claim)  # the session's own child: garbage collection takes it
        if not delete_home:
            return Removal(session, None, None)
        await _refuse_shared_home(client, session)
        await client.get(CLAIMS, claim, namespace=namespace, into=dict[str, Any])
    except NotFound as error:
        if error.api_missing:
            raise
        return Removal(session, None, None)  # there is no home to delete
    except CommandFailedError as failure:
        return failure
    return Removal(session, claim, claim)


async def _refuse_shared_home(client: Client, session: VDISession) -> None:
    mine = session.metadata.name
    for raw in await list_raw(client, session.metadata.namespace, session.spec.user):
        other = as_session(raw)
        if other.spec.template == session.spec.template and other.metadata.name != mine:
            raise CommandFailedError(
                f"session {mine} shares its home with session {other.metadata.name}, so the home is not deleted and"
                f" {mine} neither: remove {other.metadata.name} first, or leave out --delete-home"
            )


async def remove(client: Client, removal: Removal) -> None:
    """Delete the session, this incarnation of it, and then the home if that is wanted."""
    meta = removal.session.metadata
    try:
        await client.delete(SESSIONS, meta.name, namespace=meta.namespace, uid=meta.uid, into=dict[str, Any])
    except NotFound as error:
        if error.api_missing:
            raise
    if removal.claim_to_delete:
        await client.delete(CLAIMS, removal.claim_to_delete, namespace=meta.namespace, into=dict[str, Any])


async def until_gone(client: Client, session: VDISession, seconds: float) -> bool:
    """Wait until this incarnation of the session is gone; False when it is still there after `seconds`."""
    meta = session.metadata
    try:
        async with (
            asyncio.timeout(seconds),
            following(client, SESSIONS, VDISession, namespace=meta.namespace, name=meta.name) as sessions,
        ):
            while (there := sessions.store.get(meta.namespace, meta.name)) and there.metadata.uid == meta.uid:
                await sessions.change()
    except TimeoutError:
        return False
    return True


async def log_lines(client: Client, namespace: str, name: str, *, follow: bool, tail: int | None) -> AsyncIterator[str]:
    """The desktop's log; when it has none yet, why."""
    session = await get_session(client, namespace, name)
    pod = session.status.pod_name or pod_name(name)
    started = False
    try:
        async for line in client.log_lines(namespace, pod, follow=follow, tail=tail):
            started = True
            yield line
    except (NotFound, BadRequest) as error:
        what = "has no pod" if isinstance(error, NotFound) else "has not started its container"
        raise CommandFailedError(_no_log(session, what, error.message)) from error
    if not started and session.status.phase != Phase.RUNNING:  # a pod without a node has an empty log, not an error
        raise CommandFailedError(_no_log(session, "has not started", "its status does not say why"))


def _no_log(session: VDISession, what: str, otherwise: str) -> str:
    said = session.status.message or otherwise
    return f"session {session.metadata.name} ({phase(session)}) {what}, so there is no log: {said}"
