"""A Kafka cluster inside this process, for the demo.

It is librdkafka's mock cluster, reached through the library that the confluent-kafka wheel
bundles. Other processes on this machine can use it through its address. It keeps everything
in memory: nothing outlives the process, and a new cluster starts at offset 0 again. It keeps
at most 5 MB or 100 000 messages per partition and drops the oldest without a word, so
whoever feeds it must not run far ahead of whoever reads it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import confluent_kafka

# The mock cluster's own limits per partition, fixed in its source.
PARTITION_LIMIT_BYTES = 5_000_000
PARTITION_LIMIT_MESSAGES = 100_000

_BROKERS = 1
_FIRST_BROKER_ID = 1
# A real cluster waits 3 s for more members before the first assignment of a group.
_REBALANCE_DELAY_MS = 3000
_ERROR_TEXT_BYTES = 512
_PRODUCER_TYPE = 0

_POINTER = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "rd_kafka_conf_new": (_POINTER, []),
    "rd_kafka_conf_set": (
        ctypes.c_int,
        [_POINTER, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t],
    ),
    "rd_kafka_new": (_POINTER, [ctypes.c_int, _POINTER, ctypes.c_char_p, ctypes.c_size_t]),
    "rd_kafka_destroy": (None, [_POINTER]),
    "rd_kafka_mock_cluster_new": (_POINTER, [_POINTER, ctypes.c_int]),
    "rd_kafka_mock_cluster_destroy": (None, [_POINTER]),
    "rd_kafka_mock_cluster_bootstraps": (ctypes.c_char_p, [_POINTER]),
    "rd_kafka_mock_topic_create": (
        ctypes.c_int,
        [_POINTER, ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
    ),
    "rd_kafka_mock_set_controller_id": (ctypes.c_int, [_POINTER, ctypes.c_int32]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [_POINTER, ctypes.c_int32]),
}


class BrokerError(RuntimeError):
    """The embedded cluster could not be started; the message says what to do."""


class EmbeddedCluster:
    """A running cluster of one broker; `close` ends it, once."""

    def __init__(self, topics: Sequence[str], partitions: int) -> None:
        """Start it, with these topics of this many partitions. Raises BrokerError."""
        self._library = _load_library()
        error_text = ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
        conf = self._library.rd_kafka_conf_new()
        # Notices of this inner client would be written across the live view.
        self._library.rd_kafka_conf_set(conf, b"log_level", b"2", error_text, _ERROR_TEXT_BYTES)
        self._client = self._library.rd_kafka_new(
            _PRODUCER_TYPE, conf, error_text, _ERROR_TEXT_BYTES
        )
        if not self._client:
            raise BrokerError(
                f"embedded Kafka: the client could not be made: {error_text.value.decode()}"
            )
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, _BROKERS)
        if not self._cluster:
            self._library.rd_kafka_destroy(self._client)
            raise BrokerError(
                "embedded Kafka: the cluster could not be started; "
                "check that this user may listen on 127.0.0.1"
            )
        self._prepare(topics, partitions)
        self.address: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def _prepare(self, topics: Sequence[str], partitions: int) -> None:
        library = self._library
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, _REBALANCE_DELAY_MS)
        # Without a controller the cluster answers no admin request, such as the one
        # for a topic's id: the client waits for a controller until its time is up.
        library.rd_kafka_mock_set_controller_id(self._cluster, _FIRST_BROKER_ID)
        # Now and then one of these calls takes a second: its wake-up inside librdkafka is lost.
        for topic in topics:
            code = library.rd_kafka_mock_topic_create(
                self._cluster, topic.encode(), partitions, _BROKERS
            )
            if code != 0:
                self.close()
                raise BrokerError(
                    f"embedded Kafka: topic {topic!r} with {partitions} partitions "
                    f"was refused (librdkafka error {code})"
                )

    def close(self) -> None:
        """End the cluster and forget its messages. Clients see a lost connection."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)


def _load_library() -> ctypes.CDLL:
    """librdkafka as bundled with confluent-kafka, with the signatures used here."""
    package = Path(confluent_kafka.__file__).parent
    folders = (package.with_name("confluent_kafka.libs"), package / ".dylibs")
    found = sorted(path for folder in folders for path in folder.glob("librdkafka*"))
    if not found:
        raise BrokerError(
            "embedded Kafka: the installed confluent-kafka does not bundle librdkafka; "
            f"looked in {folders[0]} and {folders[1]}; install the wheel from requirements.txt"
        )
    library = ctypes.CDLL(str(found[0]))
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise BrokerError(
                f"embedded Kafka: {found[0].name} has no {name}; "
                "install the version of confluent-kafka that requirements.txt pins"
            ) from error
        function.restype = result
        function.argtypes = arguments
    return library
