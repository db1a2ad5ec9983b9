"""The list of what users read: what is in it, what is not, and that it keeps to the language of the project."""

import pytest

from tools.messages import (
    collect,
    collect_remedies,
    main,
    of_chart,
    of_page,
    of_python,
    of_script,
    remedies_of,
    words_left,
)

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


def test_a_sentence_may_begin_with_a_number() -> None:
    (message,) = of_python("src/vdi/api/session.py", 'doc("1: nobody is before it.")')
    assert words_left([message]) == [(message, "nobody")]


def test_the_text_of_a_page_is_listed_with_what_is_read_aloud() -> None:
    messages = of_page("src/vdi/gateway/portal/templates/a.html", PAGE)
    assert [(message.line, message.text) for message in messages] == [
        (2, "Idle timeout"),
        (1, "What it is called"),
        (3, "It runs since {since(desktop)}."),
    ]


def test_docstrings_that_are_shown_are_listed() -> None:
    command = '@app.command(epilog="")\ndef ls():\n    """List what there is.\n\n    Status 1: none was found.\n    """'
    assert [message.text for message in of_python("src/vdi/cli/pool.py", command)] == [
        "List what there is.",
        "Status 1: none was found.",
    ]
    kind = 'class Pool:\n    """Desktops of a pool."""\n    def f(self):\n        """Not in the schema."""'
    assert [message.text for message in of_python("src/vdi/api/pool.py", kind)] == ["Desktops of a pool."]
    assert list(of_python("src/vdi/session/pool.py", kind)) == []


def test_sentences_of_scripts_and_refusals_of_the_chart_are_listed() -> None:
    script = '/* "Not shown to users." */\nconst a = "no-sentence"; say("Reload the page to continue.");'
    assert [(message.line, message.text) for message in of_script("a.js", script)] == [
        (2, "Reload the page to continue.")
    ]
    chart = """{{- if .x }}\n{{- fail (printf "redis.%s: not allowed" .x) }}\n{{ fail "no image: set it" }}"""
    assert [(message.line, message.text) for message in of_chart("a.tpl", chart)] == [
        (2, "redis.%s: not allowed"),
        (3, "no image: set it"),
    ]


@pytest.mark.parametrize(
    ("code", "faults"),
    [
        ('Remedy("Scale it up again.", ("kubectl scale",))', []),
        ('Remedy("On the node:", ("df -h",))', []),
        ('Remedy(f"Set {path} in the values.")', []),
        ('_code(remedy="Its label is wrong: vdi gpu configure.")', []),
        ('Remedy("On the node:")', ["one full stop at its end", "a command or a concrete step"]),
        (
            'Remedy("Set it.." if found else "It is there.")',
            ["one full stop at its end", "a command or a concrete step"],
        ),
    ],
)
def test_a_remedy_has_a_step_and_ends_with_one_full_stop(code: str, faults: list[str]) -> None:
    assert [fault for remedy in remedies_of("a.py", code) for fault in remedy.faults()] == faults


def test_each_remedy_has_a_command_or_a_concrete_step_and_one_full_stop() -> None:
    remedies = collect_remedies()
    assert len(remedies) > 200
    assert [(remedy.message, faults) for remedy in remedies if (faults := remedy.faults())] == []


def test_no_message_has_a_word_to_leave_behind() -> None:
    assert words_left(collect()) == []


def test_the_list_has_each_surface(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    for surface in ("Portal, login and edge", "Status, conditions and Events", "Findings", "Chart", "Command line"):
        assert f"\n## {surface}\n" in printed
