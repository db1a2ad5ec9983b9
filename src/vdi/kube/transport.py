"""The only module that talks to the API server: requests, retries, watches, logs."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import msgspec

from vdi.kube.config import ClusterConfig
from vdi.kube.resource import Resource

T = TypeVar("T")
Body = Mapping[str, Any] | msgspec.Struct
OnRequest = Callable[[str, str, int, float], None]
"""Called after each HTTP request: method, plural of the resource, status (0: no answer), seconds."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a request is repeated when the server is busy, restarting or out of reach."""

    attempts: int = 5
    base: float = 0.1
    cap: float = 10.0
    jitter: float = 0.5


NO_RETRY = RetryPolicy(attempts=1)


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, and the object as JSON."""

    type: str
    object: msgspec.Raw


class Client:
    """One connection to one cluster; use it as an async context manager.

    Every method raises a KubeError. `into` is what the answer is decoded to: a msgspec struct with the fields you read,
    `dict[str, Any]` for the whole object, or `msgspec.Raw` for its JSON. A retried POST whose first try was executed
    ends in AlreadyExists, a retried DELETE in NotFound: the caller knows best what that means.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        field_manager: str,
        retry: RetryPolicy = RetryPolicy(),
        user_agent: str | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        self.config = config
        self.field_manager = field_manager

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None, into: type[T]) -> T:
        """Read one object."""
        raise NotImplementedError

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        into: type[T],
    ) -> list[T]:
        """Read all objects, 500 a page."""
        raise NotImplementedError

    async def create(self, resource: Resource, obj: Body, *, namespace: str | None = None, into: type[T]) -> T:
        """POST a new object; AlreadyExists when there is one of this name."""
        raise NotImplementedError

    async def apply(
        self,
        resource: Resource,
        name: str,
        obj: Body,
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        dry_run: bool = False,
        into: type[T],
    ) -> T:
        """Server-side apply by our field manager, with force. Fields that were applied before and are not in `obj` go."""
        raise NotImplementedError

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Body,
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        into: type[T],
    ) -> T:
        """Merge patch. A `metadata.resourceVersion` or `.uid` in it is a precondition: Conflict when it fails."""
        raise NotImplementedError

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        grace_seconds: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] | None = None,
        into: type[T],
    ) -> T | None:
        """Delete one object, with `uid` only that incarnation (Conflict when it is another).

        Returns the object while it is still terminating (grace period, finalizers), None when it is gone.
        NotFound is raised.
        """
        raise NotImplementedError

    def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        resource_version: str,
        timeout_seconds: int,
        read_deadline: float = 90.0,
    ) -> AsyncIterator[WatchEvent]:
        """One watch request, from just after `resource_version`, until the server ends it (after `timeout_seconds`).

        Raises Gone when the server no longer knows that version, ConnectionFailed when nothing came for
        `read_deadline` seconds.
        """
        raise NotImplementedError

    def log_lines(
        self,
        namespace: str,
        pod: str,
        *,
        container: str | None = None,
        follow: bool = False,
        tail: int | None = None,
    ) -> AsyncIterator[str]:
        """Lines of a container's log, without their line ends; with `follow` until the container stops."""
        raise NotImplementedError
