"""The two ways in which a real service can fail to be there.

    ServiceError           it should work and does not: the test that asked for it fails
      ServiceUnavailable   this machine has no way to run it: the test that asked is skipped
"""

from __future__ import annotations


class ServiceError(Exception):
    """A real service did not start, stop or answer as it should."""


class ServiceUnavailable(ServiceError):
    """No way to a real service leads from this machine; the text names each one tried."""
