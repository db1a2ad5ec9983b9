"""Tells from an object's metadata alone whether it still is as we last wrote it."""


class MarkReader:
    """Reads our mark on an object: the hash annotation we wrote, and the fields that the server says are ours."""

    def __init__(self, field_manager: str, annotation: str) -> None:
        self.field_manager = field_manager
        self.annotation = annotation
