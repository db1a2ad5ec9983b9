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
    UNUSABLE: Rule(
        "Problems of the image or the template that are known before anything is started.", "Follow the message."
    ),
    PULL: Rule("Whether a node can pull the image.", "Fix image name, tag, registry or imagePullSecrets."),
    START: Rule(
        "Whether the container starts and keeps running, as runAsUser under Pod Security restricted.",
        "Read the last line of its log; build the image so that it runs as any user without capabilities.",
    ),
    PORT: Rule("Whether something listens on the template's port.", "Make the image listen on all addresses."),
    HEALTH: Rule(
        "Whether the health path responds with a status from 200 to 399.", "Set healthPath, scheme or basicAuthSecret."
    ),
    USER: Rule("User and group of the programs in the image.", "Set runAsUser in the template."),
    HOME: Rule(
        "Whether an empty home is writable, and is mounted at the user's home of the image.",
        "Set persistence.mountPath in the template to $HOME of the image.",
    ),
    END: Rule(
        "Whether the container ends on SIGTERM within the grace period.",
        "Let the first process forward SIGTERM to its children, or start the image with `exec` and tini.",
    ),
    START_UP: Rule("Time from the container's start until it is ready.", "Do slow work after opening the port."),
    SIZE: Rule("Size of the image on the node.", "Check its layers where it was built."),
    PICTURE: Rule("Whether Selkies sends a picture that can be decoded.", "Read the container's log."),
    INPUT: Rule("Whether the picture responds to a key.", "Read the container's log."),
    TOKENS: Rule(
        "Whether Selkies accepts the gateway's token table and rejects visitors without a token.",
        "Start Selkies with run-selkies of our image (docs/images.md#tokens).",
    ),
    AGENT: Rule(
        "Whether the optional agent responds on port 8082, and only with its token.",
        "Build the image FROM ours, or serve docs/images.md#the-agent.",
    ),
    NOT_CHECKED: Rule(
        "What could not be checked, and why. This does not mean that it passed.", "Remove the reason, then check again."
    ),
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
