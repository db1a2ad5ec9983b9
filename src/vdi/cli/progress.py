"""Progress on the terminal, stage by stage.

It goes to stderr, so that stdout keeps the command's result. Without a terminal nothing is redrawn:
lines only.
"""

from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from vdi.printable import escape

if TYPE_CHECKING:
    from rich.progress import TaskID


class PassedStage(NamedTuple):
    """A stage that is over: what was reached, and the seconds since the stage before it (or since
    the start).
    """

    text: str
    seconds: float


class ProgressView:
    """Prints each stage once it is passed, and what is waited for now."""

    def __init__(self) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from vdi.cli.console import SafeConsole

        self._console = SafeConsole(stderr=True, highlight=False)
        self._spinner = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, style="dim"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            # rich would read the colours and links in what others print meanwhile, and pass them
            # on.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: TaskID | None = None
        self._shown = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._task = self._spinner.add_task("", total=None)
            self._spinner.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._spinner.stop()

    def passed(self, text: str, seconds: float, *, well: bool = True) -> None:
        """Print a stage that is over, with the seconds that it took."""
        from rich.text import Text

        mark = ("✓", "green") if well else ("–", "yellow")
        self._console.print(
            Text.assemble(mark, f" {escape(text)} ", (f"{seconds:.1f}s", "dim")), soft_wrap=True
        )

    def waiting(self, text: str) -> None:
        """Show what is waited for; without a terminal it is printed only when it changes."""
        from rich.text import Text

        text = escape(text)
        if self._task is not None:
            self._spinner.update(self._task, description=text)
        elif text and text != self._shown:
            self._console.print(Text(f"  {text}"), soft_wrap=True)
        self._shown = text

    def say(self, text: str) -> None:
        """Print one line that stays."""
        from rich.text import Text

        self._console.print(Text(text), soft_wrap=True)
