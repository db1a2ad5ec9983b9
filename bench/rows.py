"""The raw rows of a run as a JSON file, so that anyone can repeat and compare: `bench/results/`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Let people keep every figure, beside the table."""
    text = "write every figure there, with command, date and machine"
    parser.add_argument("--json", metavar="FILE", type=Path, help=text)


def write_rows(file: Path | None, figures: object) -> None:
    """Write the file that `--json` names, if it was given."""
    if file is None:
        return
    record = {
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(),
        "figures": figures,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n")


def machine() -> dict[str, object]:
    """What a figure depends on; the load shows whether other programs ran before."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpus": os.cpu_count(),
        "cpu": model[1] if model else platform.machine(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_15_minutes": round(os.getloadavg()[2], 2),
    }
