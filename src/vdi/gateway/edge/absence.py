"""The reason why there is no desktop at an address for a user who has had one there; for `/enter`
of the portal.

It tells owners of their own past sessions, and former guests of a share that has ended. Everyone
else, and a user whose desktop had a host name of its own choice, gets None: the response must not
tell whether a desktop exists.
"""

from vdi.api.session import GuestRole, VDISession
from vdi.api.template import HomeScope
from vdi.cluster.units import format_time
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.history.component import History
from vdi.gateway.rights import User
from vdi.gateway.store.history import EndReason, SessionRow
from vdi.gateway.store.logins import GrantStore
from vdi.gateway.web.template_filters import end_reason
from vdi.session.naming import is_label_of
from vdi.session.users import same_user

_NEWEST = 50
_SHARE_OVER = "This desktop is no longer shared with you", "To use it again, ask its owner.", ""


async def explain_absence(
    cluster: ClusterCache,
    history: History,
    grants: GrantStore,
    user: User,
    label: str,
    session: VDISession | None,
) -> tuple[str, str, str] | None:
    """A title, a sentence, and the template of the desktop that ended. Raises
    DatabaseUnavailableError.

    `session`: the one at this host, in which the user has no role. So their entry with a known role
    has expired.
    """
    if session is not None:
        access = (entry.user for entry in session.spec.access if entry.role in [*GuestRole])
        was_shared = any(same_user(guest, user.email) for guest in access)
        if was_shared or await grants.was_in(session.metadata.uid, user.email):
            return _SHARE_OVER
        return None
    past = await history.past(limit=_NEWEST, user=user.email)
    row = next((run.session for run in past if is_label_of(label, run.session.name)), None)
    if row is None or cluster.by_uid(row.uid):
        return None
    if row.end_reason is EndReason.USER:
        what = "You ended it"
    else:
        what = end_reason(row.end_reason) or "It ended"
    # The history may not have recorded the end yet.
    when = f" at {format_time(row.ended)}" if row.ended else ""
    if _keeps_files(cluster, row):
        files = "Files in your home folder are kept."
    else:
        files = "Its files were deleted."
    return "This desktop has ended", f"{what}{when}. {files}", row.template


def _keeps_files(cluster: ClusterCache, row: SessionRow) -> bool:
    template = cluster.template(row.template)
    offer = template.spec.persistence if template else None
    if offer and (not offer.enabled or offer.scope is HomeScope.SESSION):
        return False
    # A user's home for all templates names none.
    if offer and offer.scope is HomeScope.USER:
        named = {row.template, ""}
    else:
        named = {row.template}
    homes = cluster.homes_of(row.owner)
    return any(
        home.template in named and home.scope != HomeScope.SESSION and not home.deleted
        for home in homes
    )
