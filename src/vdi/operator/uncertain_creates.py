"""Pods that were asked for, and whose answer was lost: whether they are there, only the API server knows for certain.

The watch brings them in a moment, unless it is broken too, which happens together. Until then no other session may
have their capacity, nor the home that they mount: a session that is deleted or suspended in that moment would give
both away.
"""

from collections.abc import Hashable

from vdi.kube.errors import ApiError, Conflict, KubeError, ServerError, TooManyRequests
from vdi.operator.owned_resources import OwnedResource
from vdi.session.identity import MANAGED_BY
from vdi.session.observed import Pod


class UncertainCreates:
    """Names of such pods, by the key of the session or pool that they are for.

    Lives as long as the process: the next one's first lists have them.
    """

    def __init__(self, pods: OwnedResource[Pod]) -> None:
        self._pods = pods
        self._names: dict[Hashable, set[tuple[str, str]]] = {}

    def add(self, whose: Hashable, namespace: str, name: str) -> None:
        """A pod of this name may be there."""
        self._names.setdefault(whose, set()).add((namespace, name))

    async def settle(self, whose: Hashable) -> list[str]:
        """Ask for them: those that are there are in the caches then. Their names. Raises KubeError: still not known."""
        settled = sorted(self._names.get(whose, ()))
        for namespace, name in settled:
            live = await self._pods.get_live(namespace, name)
            if live and MANAGED_BY.items() <= live.metadata.labels.items():  # else it is a stranger's
                self._pods.store.remember(live)
        self.forget(whose)
        return [name for _, name in settled]

    def forget(self, whose: Hashable) -> None:
        """The session or pool is gone."""
        self._names.pop(whose, None)


def is_uncertain(failure: BaseException) -> bool:
    """Whether a create that failed so may have been done all the same: its answer was lost."""
    if isinstance(failure, ApiError):
        return isinstance(failure, Conflict | TooManyRequests | ServerError)
    return isinstance(failure, KubeError)
