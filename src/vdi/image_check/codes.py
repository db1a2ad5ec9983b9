"""The codes of `vdi image check`: one for each thing that is checked."""

from vdi.findings.render import Rule

UNUSABLE = "image_unusable"
PULL = "image_pull"
START = "image_start"
PORT = "image_port"
HEALTH = "image_health"
USER = "image_user"
HOME = "image_home"
END = "image_end"
START_UP = "image_start_up"
SIZE = "image_size"
PICTURE = "image_picture"
INPUT = "image_input"
TOKENS = "image_token_table"
AGENT = "image_agent"
NOT_CHECKED = "image_not_checked"

RULES = {
    UNUSABLE: Rule("What the image or the template is known to lack before anything is started.", "Do what it says."),
    PULL: Rule("Whether a node can fetch the image.", "Fix image name, tag, registry or imagePullSecrets."),
    START: Rule(
        "Whether the container starts and stays, as runAsUser under Pod Security restricted.",
        "Read its last message; build the image so that it runs as any user without capabilities.",
    ),
    PORT: Rule("Whether something listens on the template's port.", "Let the image listen on all addresses."),
    HEALTH: Rule(
        "Whether the health path answers with a status from 200 to 399.", "Set healthPath, scheme or basicAuthSecret."
    ),
    USER: Rule("Which user and group the programs of the image run as.", "Set runAsUser in the template."),
    HOME: Rule(
        "Whether an empty home can be written to, and is where the image has its user's home.",
        "Set persistence.mountPath in the template to $HOME of the image.",
    ),
    END: Rule(
        "Whether the container ends on SIGTERM within the grace period.",
        "Let the first process pass SIGTERM on to its children, or start the image with `exec` and tini.",
    ),
    START_UP: Rule("How long the container takes from its start until it is ready.", "Do slow work after the port."),
    SIZE: Rule("How large the image is on the node.", "Look at its layers where it was built."),
    PICTURE: Rule("Whether Selkies sends a picture that can be decoded.", "Read the container's log."),
    INPUT: Rule("Whether the picture follows a key.", "Read the container's log."),
    TOKENS: Rule(
        "Whether Selkies takes the gateway's token table and refuses visitors without a token.",
        "Start Selkies with run-selkies of our image (docs/images.md#tokens).",
    ),
    AGENT: Rule(
        "Whether the optional agent answers on port 8082, and only with its token.",
        "Build the image FROM ours, or serve docs/images.md#the-agent.",
    ),
    NOT_CHECKED: Rule("What could not be checked, and why. It is never a pass.", "Remove the reason, check again."),
}

NAMES = {
    PULL: "pull",
    START: "start",
    PORT: "port",
    HEALTH: "health path",
    START_UP: "start-up time",
    USER: "user",
    HOME: "home",
    END: "end on SIGTERM",
    SIZE: "size",
    PICTURE: "picture",
    INPUT: "input",
    TOKENS: "token table",
    AGENT: "agent",
}
"""What each check is called in sentences, in the order in which they are reported."""
