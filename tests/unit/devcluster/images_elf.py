"""The smallest files that pass for programs, for the tests of images."""

import struct
from pathlib import Path


def elf(*segments: int) -> bytes:
    """An ELF file with program headers of these types (3 asks for a dynamic loader)."""
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 0x20, 64)
    struct.pack_into("<HH", header, 0x36, 56, len(segments))
    return bytes(header) + b"".join(struct.pack("<I", kind).ljust(56, b"\0") for kind in segments)


def a_static_program(path: Path, extra: bytes = b"") -> Path:
    """A program that needs no dynamic loader; `extra` makes it another one."""
    path.write_bytes(elf(1, 1) + extra)
    return path
