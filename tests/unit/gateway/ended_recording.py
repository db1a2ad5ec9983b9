"""A recording of alice-desktop that ended an hour ago, for tests that need any."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from vdi.gateway.app import Gateway
from vdi.gateway.desktop.recording_storage import RecordingFolder
from vdi.gateway.store.recordings import Recording, RecordingStore


async def save_recording(
    gateway: Gateway,
    folder: Path,
    name: str = "alice-desktop",
    template: str = "ubuntu",
    content: bytes = b"recording",
) -> str:
    """Its id; its file is in `folder`."""
    (folder / "recording.mp4").write_bytes(content)
    gateway.services.recordings._storage = RecordingFolder(folder)
    before = gateway.context.clock() - timedelta(hours=1)
    fields: dict[str, Any] = dict.fromkeys(
        ("run", "run_seen", "started", "ended", "keep_until"), before
    )
    fields |= {
        "uid": "uid-alice-desktop",
        "name": name,
        "owner": "alice@example.com",
        "template": template,
    }
    fields |= {"seconds": 4.0, "size_bytes": len(content), "owner_may_watch": True}
    await RecordingStore(gateway.context.database).save(Recording(id="recording", **fields))
    return "recording"
