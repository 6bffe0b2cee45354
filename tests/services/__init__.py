"""A real Apache Kafka, MinIO and Chromium for tests and benchmarks, found or started on demand.

Where they come from, in this order, for Kafka and MinIO each on its own:

1. endpoints given in the environment (``TEST_KAFKA_BOOTSTRAP_SERVERS``; ``TEST_S3_ENDPOINT_URL``
   with ``TEST_S3_ACCESS_KEY_ID`` and ``TEST_S3_SECRET_ACCESS_KEY``);
2. containers, where a container engine answers on this machine;
3. local processes: Kafka's jars fetched with Maven and run by Java, MinIO built with Go, both
   kept in a cache folder of the user.

A browser is the machine's own. What is started here has its data in a temporary folder and does
not outlive the session that started it, however that session ends (see ``reaper``).
"""

from __future__ import annotations

from tests.services.browser import Browser
from tests.services.errors import ServiceError, ServiceUnavailable
from tests.services.kafka import KafkaService
from tests.services.minio import MinioService
from tests.services.provider import ServiceProvider

__all__ = [
    "Browser",
    "KafkaService",
    "MinioService",
    "ServiceError",
    "ServiceProvider",
    "ServiceUnavailable",
]
