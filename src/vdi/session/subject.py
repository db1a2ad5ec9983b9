"""What sentences about a pod call it, and the fields that a person changes for it. Pure; data for `explain`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Subject:
    """A kind of pod: by default the desktop of a session."""

    name: str = "the desktop"
    title: str = "The desktop"
    """The name at the beginning of a sentence."""
    volume: str = "home volume"
    node_selector: str = "placement.nodeSelector"
    image: str = "the template's spec.image"
    pull_secrets: str = "the template's imagePullSecrets"
    memory: str = "spec.resources.memory"


DESKTOP = Subject()


def chart_subject(name: str) -> Subject:
    """A pod of a Helm release, such as `operator`: the chart's values say what it is."""
    return Subject(
        name=f"the {name}",
        title=f"The {name}",
        volume="volume",
        node_selector="nodeSelector in the chart's values",
        image="the chart's values",
        pull_secrets="imagePullSecrets in the chart's values",
        memory="the chart's values",
    )
