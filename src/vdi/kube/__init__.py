"""A Kubernetes client runtime on asyncio and msgspec. The design is in docs/design/kube.md."""

from vdi.kube.apply import Applier
from vdi.kube.clock import Clock, SystemClock
from vdi.kube.config import ClusterConfig, load_config
from vdi.kube.events import EventRecorder
from vdi.kube.managed_fields import FieldOwnershipReader
from vdi.kube.meta import HasMetadata, ObjectReference
from vdi.kube.queue import Controller, Result, TerminalError, WorkQueue
from vdi.kube.resource import CLAIMS, EVENTS, NAMESPACES, NODES, PODS, SECRETS, SERVICES, Resource
from vdi.kube.store import Store
from vdi.kube.transport import NO_RETRY, Client, RetryPolicy
from vdi.kube.watch import Reflector
from vdi.kube.wire import WatchEvent

__all__ = [
    "CLAIMS",
    "EVENTS",
    "NAMESPACES",
    "NODES",
    "NO_RETRY",
    "PODS",
    "SECRETS",
    "SERVICES",
    "Applier",
    "Client",
    "Clock",
    "ClusterConfig",
    "Controller",
    "EventRecorder",
    "FieldOwnershipReader",
    "HasMetadata",
    "ObjectReference",
    "Reflector",
    "Resource",
    "Result",
    "RetryPolicy",
    "Store",
    "SystemClock",
    "TerminalError",
    "WatchEvent",
    "WorkQueue",
    "load_config",
]
