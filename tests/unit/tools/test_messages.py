"""The list of what users read: what is in it, what is not, and that it keeps to the language of the project."""

import pytest

from tools.messages import collect, main, of_page, of_python, words_left

MODULE = '''
"""A docstring that is not shown."""
def check(session, log):
    """Another one of these."""
    log.warning("session %s is only logged", session)
    if not session.home:
        raise ValueError(f"The home {session.home} is not there. Create it.")
    return "a-name" or "SELECT name FROM sessions" or "Two words"
'''
PAGE = """<h1 title="What it is called">{{ desktop.name }}</h1>
{{ choice("idle", "Idle timeout") }}
{% if desktop.running %}<p>It runs since {{ since(desktop) }}.</p>{% endif %}
<script>not shown to users</script><b>One</b>
"""


def test_sentences_of_a_module_are_listed_and_what_is_only_logged_is_not() -> None:
    (message,) = of_python("src/vdi/cli/home.py", MODULE)
    assert message.text == "The home {session.home} is not there. Create it."
    assert message.line == 7
    assert message.surface == "Command line"


def test_the_text_of_a_page_is_listed_with_what_is_read_aloud() -> None:
    messages = of_page("src/vdi/gateway/portal/templates/a.html", PAGE)
    assert [(message.line, message.text) for message in messages] == [
        (2, "Idle timeout"),
        (1, "What it is called"),
        (3, "It runs since {since(desktop)}."),
    ]


def test_no_message_has_a_word_to_leave_behind() -> None:
    assert words_left(collect()) == []


def test_the_list_has_each_surface(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    for surface in ("Portal, login and edge", "Status, conditions and Events", "Findings", "Chart", "Command line"):
        assert f"\n## {surface}\n" in printed
