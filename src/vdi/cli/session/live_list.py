"""`vdi session ls --watch`: a table that is redrawn on a terminal, else one line for each change."""

from rich.live import Live
from rich.text import Text

from vdi.api.session import VDISession
from vdi.cli.console import SafeConsole
from vdi.cli.output import now_utc
from vdi.cli.session.backend import Backend, SessionWatch
from vdi.cli.session.view import session_table, watch_line


async def watch_list(backend: Backend, *, user: str | None, wide: bool, everywhere: bool) -> None:
    """Show the visible sessions, of one user or of all, and follow them until interrupted."""
    console = SafeConsole(highlight=False)
    async with backend.watch(everywhere=everywhere, user=user) as sessions:

        def table() -> Text:
            now, mine = now_utc(), _of_user(sessions, user)
            return Text.from_ansi("\n".join(session_table(mine, now, wide=wide, all_namespaces=everywhere)))

        if console.is_terminal:
            with Live(
                get_renderable=table,
                console=console,
                refresh_per_second=1,
                # rich would read the colours and links in what others print meanwhile, and pass them on.
                redirect_stdout=False,
                redirect_stderr=False,
            ) as live:
                while True:
                    await sessions.change()
                    live.refresh()
        while True:
            old, new = await sessions.change()
            either = new or old
            if either and user in (None, either.spec.user):
                print(watch_line(new, either.metadata.name, now_utc()), flush=True)


def _of_user(sessions: SessionWatch, user: str | None) -> list[VDISession]:
    mine = [session for session in sessions.store.values() if user in (None, session.spec.user)]
    return sorted(mine, key=lambda session: (session.metadata.creation_timestamp, session.metadata.name))
