"""When a request that failed is worth another try, and after how long."""

from dataclasses import dataclass

from vdi.kube.errors import ApiError, ConnectionFailed, ServerError, TooManyRequests


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a request is repeated when the server is busy, restarting or out of reach.

    The wait before try n + 1 is `base * 2**(n-1)` seconds, at most `cap`, less a random part of up to `jitter` (0 to 1)
    of it, and never less than the server's Retry-After. A Retry-After beyond `cap` is not waited for but raised.
    """

    attempts: int = 5
    base: float = 0.1
    cap: float = 10.0
    jitter: float = 0.5

    def wait(self, tries: int, error: ConnectionFailed | ApiError, draw: float) -> float | None:
        """Seconds to wait after `tries` failed tries, or None to give up; `draw` is a random number from 0 to 1."""
        asked = error.retry_after if isinstance(error, ApiError) else None
        if tries >= self.attempts or not _may_pass(error) or (asked or 0.0) > self.cap:
            return None
        own: float = min(self.cap, self.base * 2 ** (tries - 1)) * (1 - self.jitter * draw)
        return max(own, asked or 0.0)


NO_RETRY = RetryPolicy(attempts=1)
DEFAULT_RETRY = RetryPolicy()


def _may_pass(error: ConnectionFailed | ApiError) -> bool:
    """Whether another try can help; a plain 500 is a bug or a refusal that will come again."""
    if isinstance(error, ServerError):
        return error.status in (502, 503, 504) or error.retry_after is not None
    return isinstance(error, ConnectionFailed | TooManyRequests)
