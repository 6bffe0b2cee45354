"""Pure: how many messages to ask for at once, so that a batch stays within its bytes.

The Kafka client counts messages, memory counts bytes.  A thousand messages of 200 bytes make a
good batch; a thousand of a megabyte would take a gigabyte.  So the size seen last decides how many
come next, and a message of a topic of which nothing is known yet is taken for a large one.
"""

from __future__ import annotations

from shared.memory import MESSAGE_BYTES_UNKNOWN


class Appetite:
    """Asks for at most `messages_max`, and for about `bytes_max` by what was seen."""

    def __init__(
        self, messages_max: int, bytes_max: int, expected_bytes: float = MESSAGE_BYTES_UNKNOWN
    ) -> None:
        """expected_bytes: of a message, before one was seen."""
        self._messages_max, self._bytes_max = messages_max, bytes_max
        self._expected_bytes = expected_bytes

    def messages(self) -> int:
        """How many messages to ask for now; at least one."""
        fitting = int(self._bytes_max / self._expected_bytes)
        return max(1, min(self._messages_max, fitting))

    def bytes(self) -> int:
        """What that many messages will take, by what was seen; a single one may take more than
        `bytes_max`."""
        return int(self.messages() * self._expected_bytes)

    def saw(self, messages: int, size: int) -> None:
        """Learn from a batch of `messages` (not 0) that took `size` bytes.

        Large messages count at once.  Their absence is believed by halves: after one of a
        megabyte it takes ten batches of small ones until batches are large again.
        """
        self._expected_bytes = max(1.0, size / messages, self._expected_bytes / 2)
