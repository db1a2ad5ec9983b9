"""rich's console for texts that other people wrote; a module of its own, because rich takes long to
import.
"""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from vdi.cli.terminal import GuardedStream
from vdi.printable import escape


class SafeConsole(Console):
    """Escapes each piece of text before it is styled; rich's own sequences go past the guard of
    stdout and stderr.
    """

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        stream = sys.stderr if stderr else sys.stdout
        if isinstance(stream, GuardedStream):
            stream = stream.unguarded
        super().__init__(file=stream, markup=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """rich's segments, those with text escaped."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escape(segment.text, "\n"))
