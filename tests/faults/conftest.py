"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig.s3_proxy import S3Proxy
from tests.services import MinioService


@pytest.fixture
def proxy(minio: MinioService) -> Iterator[S3Proxy]:
    """Give a proxy before the store, and fail when one of its callbacks failed."""
    with S3Proxy(minio.endpoint) as made:
        yield made
        assert made.errors == []
