"""What the tests of the store's proxy share."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from obstore.store import S3Store

from tests.rig.s3_proxy import S3Proxy
from tests.services import MinioService


@pytest.fixture
def proxy(minio: MinioService) -> Iterator[S3Proxy]:
    """Give a proxy in front of the session's store."""
    with S3Proxy(minio.endpoint) as made:
        yield made
        assert made.errors == []


@pytest.fixture
def store(minio: MinioService, proxy: S3Proxy, lake_prefix: str) -> S3Store:
    """Give a client that goes through the proxy and never tries twice."""
    return S3Store(
        minio.bucket,
        prefix=lake_prefix,
        endpoint=proxy.endpoint,
        access_key_id=minio.access_key,
        secret_access_key=minio.secret_key,
        region="us-east-1",
        client_options={"allow_http": True, "timeout": "2s"},
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=5)},
    )
