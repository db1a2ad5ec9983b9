"""What moves on the screen: the start of a session stage by stage, and the list that follows the cluster.

Progress goes to stderr, so that stdout stays what was asked for. Without a terminal nothing is redrawn: lines only.
"""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from vdi.api.session import VDISession
from vdi.cli.output import now_utc
from vdi.cli.session_view import session_table, watch_line
from vdi.cli.session_way import Followed, Way
from vdi.cli.stages import Passed


class StartView:
    """Prints each stage once it is passed, and what is waited for now."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._spinner = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, style="dim"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._said = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._task = self._spinner.add_task("", total=None)
            self._spinner.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._spinner.stop()

    def passed(self, stage: Passed, *, well: bool = True) -> None:
        """One stage is over."""
        mark = ("✓", "green") if well else ("–", "yellow")
        line = Text.assemble(mark, f" {stage.text} ", (f"{stage.seconds:.1f}s", "dim"))
        self._console.print(line, soft_wrap=True)

    def waiting(self, text: str) -> None:
        """What is waited for; said again only when it changes."""
        if self._task is not None:
            self._spinner.update(self._task, description=text)
        elif text and text != self._said:
            self._console.print(Text(f"  {text}"), soft_wrap=True)
        self._said = text

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(Text(text), soft_wrap=True)


async def watch_list(way: Way, *, user: str | None, wide: bool, everywhere: bool) -> None:
    """Show the sessions of all who may be seen, or of one user, and follow them until interrupted."""
    console = Console(highlight=False)
    async with way.follow(everywhere=everywhere, user=user) as sessions:

        def table() -> Text:
            now, mine = now_utc(), _of_user(sessions, user)
            return Text.from_ansi("\n".join(session_table(mine, now, wide=wide, all_namespaces=everywhere)))

        if console.is_terminal:
            with Live(get_renderable=table, console=console, refresh_per_second=1) as live:
                while True:
                    await sessions.change()
                    live.refresh()
        while True:
            old, new = await sessions.change()
            either = new or old
            if either and user in (None, either.spec.user):
                print(watch_line(new, either.metadata.name, now_utc()), flush=True)


def _of_user(sessions: Followed, user: str | None) -> list[VDISession]:
    mine = [each for each in sessions.store.values() if user in (None, each.spec.user)]
    return sorted(mine, key=lambda each: (each.metadata.creation_timestamp, each.metadata.name))
