"""Running pods and mounted volumes on any node: their processes are visible on this machine."""

import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

# A pod's uid in the path of a cgroup.
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")
_PAUSE_SECONDS = 0.3


def pods_that_run() -> set[str]:
    """The uids of the pods that have a process now, whatever the API server knows of them."""
    found: set[str] = set()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):  # it has ended
                found.update(
                    uid.replace("_", "-") for uid in _POD.findall((process / "cgroup").read_text())
                )
    return found


def pods_with(volume: str) -> set[str]:
    """The uids of the pods that have this PersistentVolume of local-path mounted now, on any
    node.
    """
    owners: dict[str, str] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            namespace = str((process / "ns/mnt").readlink())
            if namespace not in owners:
                pod = _POD.search((process / "cgroup").read_text())
                mounted = pod is not None and f"/{volume}_" in (process / "mountinfo").read_text()
                owners[namespace] = pod[1].replace("_", "-") if pod and mounted else ""
        except OSError:  # it has ended
            continue
    return {uid for uid in owners.values() if uid}


@dataclass
class MountLog:
    """The pods that have had each volume mounted since the log began."""

    # By volume: the sets of pods that had it mounted at the same moment.
    together: dict[str, set[frozenset[str]]] = field(default_factory=lambda: defaultdict(set))

    def pods(self, volume: str) -> set[str]:
        """All pods that have had it mounted."""
        return {uid for uids in self.together[volume] for uid in uids}

    @property
    def twice(self) -> dict[str, list[frozenset[str]]]:
        """The volumes that two pods had mounted at the same moment."""
        found = {
            volume: [uids for uids in sets if len(uids) > 1]
            for volume, sets in self.together.items()
        }
        return {volume: uids for volume, uids in found.items() if uids}


@contextmanager
def mounts_watched(*volumes: str) -> Iterator[MountLog]:
    """Read the mount tables again and again while the context lasts. Raises what went wrong
    meanwhile.
    """
    log, ended, trouble = MountLog(), threading.Event(), list[BaseException]()

    def watch() -> None:
        try:
            while not ended.wait(_PAUSE_SECONDS):
                for volume in volumes:
                    log.together[volume].add(frozenset(pods_with(volume)))
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield log
    finally:
        ended.set()
        thread.join()
    if trouble:
        raise trouble[0]
