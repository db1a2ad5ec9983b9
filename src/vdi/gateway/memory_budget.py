"""The memory that clients and desktops can make a gateway's process hold: the sum of its limits, by
what they limit.

A test holds the sum below half of the container's memory, for each file of values in the chart. The
other half is for the program, what it has cached of the cluster, people's open streams, and the
kernel's buffers of sockets.
"""

from vdi.gateway import in_flight
from vdi.gateway.app import INTERNAL_BYTES, INTERNAL_CONNECTIONS, PUBLIC_BYTES, PUBLIC_CONNECTIONS
from vdi.gateway.login.local_users import MAX_HASHES, MEMORY_KIB
from vdi.gateway.web.connection import FREE_BYTES, UNREAD_BYTES

# One connection with a request that waits for its response: objects of uvicorn, Starlette and the
# middleware. Measured are 15 to 20 KiB, and 7 KiB between two requests.
CONNECTION_BYTES = 20 * 1024
# A bytearray that grows piece by piece has an eighth more than is in it.
_GROWTH = 9 / 8


def terms() -> dict[str, int]:
    """The most bytes of each kind at a time."""
    connections = PUBLIC_CONNECTIONS + INTERNAL_CONNECTIONS
    small = in_flight.REQUEST_BYTES + in_flight.SMALL_ANSWER_BYTES
    file = in_flight.FILE_REQUEST_BYTES + in_flight.SMALL_ANSWER_BYTES
    return {
        "connections": connections * CONNECTION_BYTES,
        "what each may hold beside the budgets": connections * (FREE_BYTES + UNREAD_BYTES),
        "requests of the public": int(PUBLIC_BYTES * _GROWTH),
        "requests on the internal listener": int(INTERNAL_BYTES * _GROWTH),
        "responses that are not read": PUBLIC_BYTES + INTERNAL_BYTES,
        "hashes of passwords": MAX_HASHES * MEMORY_KIB * 1024,
        "requests to desktops": (in_flight.ACTIONS.most + in_flight.PAGES.most) * small,
        "polls of desktops": in_flight.POLLS.most * in_flight.REQUEST_BYTES,
        "files on their way": in_flight.FILES.most * file,
        "recordings that are watched": 2
        * in_flight.OPEN_RECORDINGS
        * in_flight.RECORDING_PIECE_BYTES,
        "large answers of desktops": in_flight.ANSWERS_BYTES + in_flight.POLLED_BYTES,
        "the answer that is decoded and encoded": 2 * in_flight.ACTION_ANSWER_BYTES,
        "calls that wait": in_flight.WAITING_CALLS * in_flight.WAITING_CALL_BYTES,
    }
