"""Kafka and MinIO as containers, from the images that their projects publish.

Files reach a container by copying and ports are the same inside and outside, so that no folder
has to be shared with the engine and a broker can advertise the address its clients use.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tests.services.errors import ServiceUnavailable
from tests.services.install import KAFKA_VERSION, Progress
from tests.services.instances import Container
from tests.services.reaper import Reaper

if TYPE_CHECKING:
    from docker import DockerClient

KAFKA_IMAGE = ("apache/kafka", KAFKA_VERSION)
MINIO_IMAGE = ("minio/minio", "RELEASE.2025-09-07T16-13-09Z")
"""The last one that was published; the local way builds a newer state of the same server."""

ENGINE_TIMEOUT_S = 120
"""For one request to the engine; the stop of a container is the longest of them."""
LOCAL_ENGINE_URL = "http+docker://"
"""What the client makes of a socket on this machine."""


def container_engine() -> DockerClient:
    """Return a client of the container engine of this machine.

    Raises:
        ServiceUnavailable: none answers, or the one configured is on another machine, where
            ports of 127.0.0.1 would not be ours.
    """
    import docker  # Only here: where no container is wanted its import is time lost.

    try:
        client = docker.from_env(timeout=ENGINE_TIMEOUT_S)
        client.ping()
    except docker.errors.DockerException as error:
        reason = str(error).splitlines()[0]
        raise ServiceUnavailable(f"no container engine answers ({reason})") from error
    if not client.api.base_url.startswith(LOCAL_ENGINE_URL):
        raise ServiceUnavailable(f"the container engine is elsewhere ({client.api.base_url})")
    return client


def pull(client: DockerClient, image: tuple[str, str], progress: Progress) -> None:
    """Have the image on this machine.

    Raises:
        ServiceUnavailable: the engine could not get it.
    """
    import docker

    name = ":".join(image)
    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        progress(f"pulling the image {name}")
        try:
            client.images.pull(image[0], tag=image[1])
        except docker.errors.DockerException as error:
            raise ServiceUnavailable(f"the image {name} cannot be had ({error})") from error


def create(
    client: DockerClient,
    image: tuple[str, str],
    *,
    name: str,
    entrypoint: Sequence[str],
    environ: Mapping[str, str],
    ports: Sequence[int],
    files: Mapping[str, bytes],
    reaper: Reaper,
) -> Container:
    """Create a container that is ready to start.

    Args:
        client: the engine.
        image: repository and tag.
        name: of the container, to be recognised in the engine's lists.
        entrypoint: program and arguments.
        environ: added to the image's environment.
        ports: published on 127.0.0.1 under the same number.
        files: name to content; they land in ``/tmp``.
        reaper: removes the container when this process cannot.
    """
    created = client.containers.create(
        ":".join(image),
        name=name,
        entrypoint=list(entrypoint),
        command=[],
        environment=dict(environ),
        ports={f"{port}/tcp": ("127.0.0.1", port) for port in ports},
    )
    container = Container(created, reaper)
    if files:
        created.put_archive("/tmp", _archive(files))
    return container


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
