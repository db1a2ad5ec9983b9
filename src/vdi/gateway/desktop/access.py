"""The session that a user names: whether they may know of it, and whether they may act on it."""

from vdi.api.session import Role, VDISession
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied, refused_by_cluster
from vdi.gateway.rights import Action, User, is_token, no_desktop, refusal, role_in
from vdi.kinds import SESSIONS
from vdi.kube.errors import KubeError


def find_session(context: GatewayContext, user: User, name: str) -> tuple[VDISession, Role | None]:
    """A session that the user may know of, and their role in it; None: an administrator. Raises
    ActionDenied.
    """
    session = context.cluster.session(name)
    role = None
    if session:
        role = role_in(session, user.email, context.clock())
    if session is None or (role is None and not user.admin):
        raise ActionDenied("NotFound", no_desktop(name))
    return session, role


async def find_to_act(context: GatewayContext, user: User, action: Action, name: str) -> VDISession:
    """A session with which the user may do this now. Raises ActionDenied."""
    session, _ = find_session(context, user, name)
    if is_token(user.login_id):
        # A person may have taken over through another replica, and this one's watch may be late.
        meta, get = session.metadata, context.client.get
        try:
            session = await get(SESSIONS, name, namespace=meta.namespace, into=VDISession)
        except KubeError as error:
            raise refused_by_cluster(error, name) from error
        if session.metadata.uid != meta.uid:
            raise ActionDenied("NotFound", no_desktop(name))
    if refused := refusal(user, action, session, context.clock()):
        raise ActionDenied(*refused)
    return session
