"""Why a deed is not done: a code for programs, a sentence for people."""

from vdi.kube.errors import AlreadyExists, ApiError, Conflict, Forbidden, Invalid, KubeError, NotFound, Replaced

STATUS = {"Forbidden": 403, "NotFound": 404, "Conflict": 409, "OverLimit": 409, "Invalid": 422, "Unavailable": 503}


class Refused(Exception):  # noqa: N818 -- read as `except Refused`
    """Raised when a deed is not done. `sentence` is for the person and names what is allowed."""

    def __init__(self, code: str, sentence: str) -> None:
        self.code = code
        """A key of `STATUS`."""
        self.sentence = sentence
        super().__init__(sentence)

    @property
    def status(self) -> int:
        """The HTTP status that says so."""
        return STATUS[self.code]


def refused_by_cluster(error: KubeError, name: str) -> Refused:
    """What the API server's refusal of a write to session `name` means to the person who wanted it."""
    another = Refused("Conflict", f"The desktop {name!r} has ended, and a new one has its name. Look, and try again.")
    if isinstance(error, Invalid):
        if any(cause.field == "metadata.uid" for cause in error.causes):
            return another  # to the API server a uid that is not the object's own is a change of it
        why = "; ".join(f"{cause.field}: {cause.message}" for cause in error.causes) or error.message
        return Refused("Invalid", f"The cluster does not take this: {why}.")
    if isinstance(error, NotFound):
        return Refused("NotFound", f"The desktop {name!r} has ended.")
    if isinstance(error, AlreadyExists):
        return Refused("Conflict", f"There is a desktop named {name!r} already; choose another name.")
    if isinstance(error, Replaced):
        return another
    if isinstance(error, Conflict):
        return Refused("Conflict", f"The desktop {name!r} has just been changed by somebody else. Look, and try again.")
    if isinstance(error, Forbidden):
        return Refused("Forbidden", f"The cluster refuses this: {error.message}.")
    if isinstance(error, ApiError) and error.status < 500 and error.status != 429:
        return Refused("Unavailable", f"The cluster answers {error.status} {error.reason}; tell an administrator.")
    return Refused("Unavailable", "The cluster does not answer just now. Nothing is lost; try again in a minute.")
