"""The token that tests read /metrics with."""

from pathlib import Path

TOKEN = "metrics-of-the-tests"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}


def token_file(folder: Path) -> Path:
    """The file for VDI_METRICS_TOKEN_FILE, as the chart mounts it."""
    file = folder / "metrics-token"
    file.write_text(f"{TOKEN}\n")
    return file
