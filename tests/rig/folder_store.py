"""Stands where a `Scene` wants a store, for tests to which the store does not matter."""

from __future__ import annotations

from pathlib import Path


class FolderStore:
    """Lakes in a local folder: what `Scene` asks of a MinIO, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lake_uri(self, prefix: str) -> str:
        """The folder of one lake; it exists."""
        lake = self._folder / prefix
        lake.mkdir(parents=True, exist_ok=True)
        return str(lake)

    def storage_options(self) -> dict[str, str]:
        """None are needed."""
        return {}

    def environment(self, prefix: str) -> dict[str, str]:
        """The service's variables."""
        return {"LAKE_URI": self.lake_uri(prefix)}
