"""The store proxy's cuts, shares and codes have exactly the effect they name."""

from __future__ import annotations

import obstore
import pytest
from obstore.exceptions import BaseError, PermissionDeniedError
from obstore.store import S3Store

from tests.rig.s3_proxy import CUT_ANSWER, CUT_REQUEST, S3Proxy, fail_before
from tests.services import MinioService

DATA = bytes(range(256)) * 400
REQUESTS = 200


def test_cut_request_fails_the_client_and_leaves_no_object(
    store: S3Store, proxy: S3Proxy, minio: MinioService, lake_prefix: str
) -> None:
    """Half a body is not half an object: the store forgets it."""
    rule = proxy.rule(method="PUT", action=CUT_REQUEST, times=1)
    with pytest.raises(BaseError):
        obstore.put(store, "victim", DATA, use_multipart=False)
    assert rule.fired == 1
    assert obstore.list(minio.object_store(lake_prefix)).collect() == []
    obstore.put(store, "victim", DATA, use_multipart=False)
    assert obstore.get(store, "victim").bytes() == DATA


def test_cut_answer_never_passes_for_a_whole_object(store: S3Store, proxy: S3Proxy) -> None:
    """The length was announced, so a client that gets less has to notice."""
    obstore.put(store, "victim", DATA, use_multipart=False)
    rule = proxy.rule(method="GET", action=CUT_ANSWER, times=1)
    with pytest.raises(BaseError):
        obstore.get(store, "victim").bytes()
    assert rule.fired == 1
    assert obstore.get(store, "victim").bytes() == DATA


def test_share_strikes_about_its_part_of_the_requests(store: S3Store, proxy: S3Proxy) -> None:
    """The dice have a fixed seed, so the same requests are struck in every run."""
    obstore.put(store, "here", b"")
    rule = proxy.rule(method="HEAD", action=fail_before(503), share=0.25)
    failed = 0
    for _ in range(REQUESTS):
        try:
            obstore.head(store, "here")
        except BaseError:
            failed += 1
    assert failed == rule.fired
    assert 0.15 * REQUESTS < failed < 0.35 * REQUESTS


def test_error_carries_the_code_that_was_named(store: S3Store, proxy: S3Proxy) -> None:
    """What the store's own sentence says must reach a person, so the code must reach the client."""
    proxy.rule(method="PUT", action=fail_before(403, "RequestTimeTooSkewed"), times=1)
    with pytest.raises(PermissionDeniedError, match="RequestTimeTooSkewed"):
        obstore.put(store, "victim", b"", use_multipart=False)
