"""When a failed attempt is made again, after which wait, and how often in all: the arithmetic of retries. Pure.

It never sleeps, and has no chance of its own: what is drawn comes in.
"""

from __future__ import annotations

from gateway.tool import Retry

# After these nothing ran and nothing was sent, so that whatever the tool does, it did not do it.
NOTHING_SENT = frozenset({"upstream_unreachable", "sandbox_unavailable"})
MAX_PERCENT = 10
MAX_SAVED = 10  # retries that good times save up for bad ones


def wait(retry: Retry, failed: int, drawn: float, asked: float = 0.0) -> float:
    """Seconds before the next attempt, after `failed` of them: exponential backoff with full jitter.

    Somewhere between nothing and `first` doubled with each failure, at most `longest`; `drawn`, in [0, 1), says where.
    Never less than what the backend itself `asked` for.
    """
    return max(drawn * min(retry.longest, retry.first * 2.0 ** (failed - 1)), asked)


def until(retry: Retry, failed: int, now: float, deadline: float) -> float:
    """The deadline of the next attempt: that of the call, or an equal share of the time that is left where timeouts are
    tried again, which else would leave none."""
    if "timeout" not in retry.on:
        return deadline
    return now + (deadline - now) / max(retry.attempts - failed, 1)


class RetryBudgets:
    """How much each tool may still try again: a share of its calls, so that a failing backend is not sent a multiple.

    A bucket for each tool: a call puts `percent` hundredths in, a retry takes a whole one, and it holds `MAX_SAVED`. It
    begins empty, so that at no time more than that share of the calls so far was tried again.
    """

    def __init__(self) -> None:
        self._hundredths: dict[str, int] = {}

    def called(self, tool: str, percent: int) -> None:
        """One call of the tool, whatever comes of it."""
        self._hundredths[tool] = min(self._hundredths.get(tool, 0) + percent, MAX_SAVED * 100)

    def take(self, tool: str) -> bool:
        """Whether there is a retry left, which is taken."""
        left = self._hundredths.get(tool, 0) - 100
        if left < 0:
            return False
        self._hundredths[tool] = left
        return True
