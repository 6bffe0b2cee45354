"""A real MinIO for tests: buckets, restricted users and, where it is ours, its life."""

from __future__ import annotations

import time
import urllib.parse
import uuid
from collections.abc import Mapping
from typing import Any

import urllib3
from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider
from minio.deleteobjects import DeleteObject
from minio.error import MinioException
from obstore.store import S3Store

from tests.services.errors import ServiceError
from tests.services.instances import Instance

REGION = "us-east-1"
START_TIMEOUT_S = 60
REQUEST_TIMEOUT_S = 10
PROBE_INTERVAL_S = 0.1


class MinioService:
    """One S3 endpoint and one bucket in it.

    Attributes:
        endpoint: URL without a path, as ``AWS_ENDPOINT_URL`` takes it.
        access_key, secret_key: of a user who may do everything.
        bucket: made by the first ``start``; every test takes a prefix of its own in it.
        is_managed: whether it was started here, so that it may be killed.
        instance: the runner, for a test that looks at the process itself.
    """

    def __init__(
        self, endpoint: str, access_key: str, secret_key: str, instance: Instance | None = None
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.access_key = access_key
        self.secret_key = secret_key
        self.bucket = f"bronze-test-{uuid.uuid4().hex[:8]}"
        self.instance = instance
        self.is_managed = instance is not None
        self._has_bucket = False

    # Life

    def start(self) -> None:
        """Start the store where it is not running, and return once it serves requests.

        Data and port are those of the last run. A given store is only asked.

        Raises:
            ServiceError: it ended, or did not answer within ``START_TIMEOUT_S``.
        """
        if self.instance is not None:
            self.instance.start()
        self._wait_until_ready()
        if not self._has_bucket:
            self.create_bucket(self.bucket)
            self._has_bucket = True

    def stop(self) -> None:
        """Have the store shut down in good order, and wait for its end."""
        self._own().stop()

    def kill(self) -> None:
        """End the store with SIGKILL, and wait for its end."""
        self._own().kill()

    def pause(self) -> None:
        """Freeze the store; connections stay open and are not served."""
        self._own().pause()

    def resume(self) -> None:
        """Let a paused store go on."""
        self._own().resume()

    def close(self) -> None:
        """Remove the store and its data; of a given store, the bucket made here."""
        if self.instance is not None:
            self.instance.remove()
        elif self._has_bucket:
            client = self.client()
            names = [
                DeleteObject(str(entry.object_name))
                for entry in client.list_objects(self.bucket, recursive=True)
            ]
            for error in client.remove_objects(self.bucket, names):
                raise ServiceError(f"bucket {self.bucket} could not be emptied: {error}")
            client.remove_bucket(self.bucket)

    # Content

    def create_bucket(self, name: str) -> None:
        """Create an empty bucket."""
        self.client().make_bucket(name, location=REGION)

    def put_user(self, access_key: str, secret_key: str, policy: Mapping[str, Any]) -> None:
        """Create a user who may do what an IAM policy document says, or replace that policy.

        The policy holds from the next request on, also for connections that are open.
        """
        admin = self.admin()
        admin.user_add(access_key, secret_key)
        admin.policy_add(f"policy-{access_key}", policy=dict(policy))
        admin.policy_set(f"policy-{access_key}", user=access_key)

    def client(self) -> Minio:
        """Return an S3 client that shares no code with the product's."""
        parts = urllib.parse.urlsplit(self.endpoint)
        return Minio(
            parts.netloc,
            access_key=self.access_key,
            secret_key=self.secret_key,
            region=REGION,
            secure=parts.scheme == "https",
            http_client=_http_client(),
        )

    def admin(self) -> MinioAdmin:
        """Return a client of MinIO's own administration interface."""
        parts = urllib.parse.urlsplit(self.endpoint)
        return MinioAdmin(
            endpoint=parts.netloc,
            credentials=StaticProvider(self.access_key, self.secret_key),
            region=REGION,
            secure=parts.scheme == "https",
            http_client=_http_client(),
        )

    # Settings for others

    def storage_options(self) -> dict[str, str]:
        """Return the settings that deltalake takes for this store."""
        return {
            "aws_endpoint_url": self.endpoint,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "aws_region": REGION,
            "aws_allow_http": "true",
            "aws_conditional_put": "etag",
        }

    def object_store(self, prefix: str | None = None) -> S3Store:
        """Return an obstore client of the bucket, or of one prefix in it."""
        return S3Store(
            self.bucket,
            prefix=prefix,
            endpoint=self.endpoint,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region=REGION,
            conditional_put="etag",
            client_options={"allow_http": True},
        )

    def lake_uri(self, prefix: str) -> str:
        """Return the URI of a lake under ``prefix`` in the bucket."""
        return f"s3://{self.bucket}/{prefix}"

    def environment(self, prefix: str) -> dict[str, str]:
        """Return the environment variables with which the service writes under ``prefix``."""
        return {
            "LAKE_URI": self.lake_uri(prefix),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_ALLOW_HTTP": "true",
        }

    def _own(self) -> Instance:
        if self.instance is None:
            raise ServiceError(
                f"the store at {self.endpoint} was given, not started here, so no test may stop "
                "it; ask for own_minio"
            )
        return self.instance

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        last = "no answer yet"
        while time.monotonic() < deadline_s:
            if self.instance is not None and not self.instance.is_running():
                raise ServiceError(
                    f"MinIO ended while starting; its last lines:\n{self.instance.log_tail()}"
                )
            try:
                self.client().list_buckets()
                return
            except (MinioException, urllib3.exceptions.HTTPError) as error:
                last = str(error)
            time.sleep(PROBE_INTERVAL_S)
        log = f"; its last lines:\n{self.instance.log_tail()}" if self.instance else ""
        raise ServiceError(
            f"S3 at {self.endpoint} did not answer within {START_TIMEOUT_S} s ({last}){log}"
        )


def _http_client() -> urllib3.PoolManager:
    """Return a client that fails at once, so that the loops above decide about a next try."""
    return urllib3.PoolManager(timeout=REQUEST_TIMEOUT_S, retries=False, cert_reqs="CERT_REQUIRED")
