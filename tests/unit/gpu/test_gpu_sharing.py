"""The device plugin's configuration: what we write, and what we make of anybody's."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vdi.gpu.sharing.config import BadConfigError, Sharing, read_config, render_config

MISSION = """\
version: v1
flags:
  migStrategy: none
sharing:
  timeSlicing:
    renameByDefault: false
    failRequestsGreaterThanOne: false
    resources:
    - name: nvidia.com/gpu
      replicas: 8"""

sharings = st.builds(
    Sharing,
    st.integers(1, 1000),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["none", "single", "mixed"]),
)


def test_the_default_is_the_missions_text_to_the_letter() -> None:
    assert render_config(Sharing()) == MISSION


@given(sharings)
def test_what_is_written_is_read_as_it_was_meant(sharing: Sharing) -> None:
    read = read_config(render_config(sharing))
    assert (read.replicas, read.resource, read.method, read.mig_strategy) == (
        sharing.replicas,
        sharing.resource,
        sharing.method,
        sharing.mig_strategy,
    )
    if sharing.replicas > 1:
        assert read == sharing


def test_one_replica_is_written_without_sharing() -> None:
    assert "sharing" not in yaml.safe_load(render_config(Sharing(replicas=1)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: v2", "version is 'v2'; allowed: v1"),
        ("a: [", "not YAML"),
        ("just words", "fields with values"),
        ("flags: {migStrategy: some}", "flags.migStrategy is 'some'; allowed: none, single, mixed"),
        (
            MISSION.replace("8", "0"),
            r"sharing.timeSlicing.resources[0].replicas is 0; allowed: a whole number",
        ),
        (MISSION.replace("8", "true"), "replicas is True"),
        (MISSION.replace("8", "'8'"), "replicas is '8'"),
        (
            "sharing: {timeSlicing: {resources: []}}",
            "sharing.timeSlicing.resources is []; allowed: a list",
        ),
        (
            f"{MISSION}\n  mps: {{resources: [{{name: nvidia.com/gpu, replicas: 2}}]}}",
            "both timeSlicing and mps",
        ),
    ],
)
def test_what_the_plugin_cannot_use_is_named(text: str, words: str) -> None:
    with pytest.raises(BadConfigError) as refusal:
        read_config(text)
    assert words in str(refusal.value)


@given(
    st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(yaml.safe_dump)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_config(text)
    except BadConfigError as error:
        assert str(error)


def test_mps_is_read_as_mps() -> None:
    read = read_config("sharing: {mps: {resources: [{name: nvidia.com/gpu, replicas: 4}]}}")
    assert (read.method, read.replicas) == ("mps", 4)
