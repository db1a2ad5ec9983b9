"""Types and reasons of a session's conditions: constants of the API, so never renamed."""

TEMPLATE_FOUND = "TemplateFound"
ADMITTED = "Admitted"
HOME_BOUND = "HomeBound"
POD_READY = "PodReady"
ROUTE_READY = "RouteReady"
READY = "Ready"

CONDITION_TYPES = (TEMPLATE_FOUND, ADMITTED, HOME_BOUND, POD_READY, ROUTE_READY, READY)
"""In the order in which a start passes them."""


class Phase:
    """Values of `status.phase` that the operator sets (A4)."""

    PENDING = "Pending"
    CREATING = "Creating"
    RUNNING = "Running"
    TERMINATING = "Terminating"
    FAILED = "Failed"


class Reason:
    """Reasons of conditions, by condition."""

    # TemplateFound
    FOUND = "Found"
    NEWER_REVISION = "NewerRevision"
    TEMPLATE_NOT_FOUND = "TemplateNotFound"
    # Admitted
    ADMITTED = "Admitted"
    OVER_LIMIT = "OverLimit"
    INVALID_TEMPLATE = "InvalidTemplate"
    INVALID_SESSION = "InvalidSession"
    HOME_IN_USE = "HomeInUse"
    HOST_TAKEN = "HostTaken"
    NAME_TAKEN = "NameTaken"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_SECURITY = "PodSecurity"
    REFUSED = "Refused"
    # HomeBound
    BOUND = "Bound"
    NO_HOME = "NoHome"
    HOME_PENDING = "HomePending"
    HOME_LOST = "HomeLost"
    NOT_CREATED = "NotCreated"
    # PodReady: the codes of `explain` besides these
    POD_READY = "PodReady"
    # RouteReady
    ROUTED = "Routed"
    # Ready
    RUNNING = "Running"
    STARTING = "Starting"
    STOPPING = "Stopping"
    TIMED_OUT = "TimedOut"
