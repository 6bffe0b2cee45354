"""A real Chromium for tests, driven over WebDriver's HTTP with the standard library alone."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.services.errors import ServiceError
from tests.services.instances import Instance

START_TIMEOUT_S = 60
REQUEST_TIMEOUT_S = 60
PROBE_INTERVAL_S = 0.1
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)

# A proxy of the environment must not stand between us and our own driver.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Browser:
    """One window of Chromium.

    Args:
        instance: runs chromedriver.
        endpoint: where chromedriver listens.
        command: Chromium itself.
        profile: folder for its data, fresh.
    """

    def __init__(self, instance: Instance, endpoint: str, command: str, profile: Path) -> None:
        self._instance = instance
        self._endpoint = endpoint
        self._command = command
        self._profile = profile
        self._session = ""

    def start(self) -> None:
        """Open the window.

        Raises:
            ServiceError: the driver did not come up, or could not start Chromium.
        """
        self._instance.start()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if not self._instance.is_running() or time.monotonic() > deadline_s:
                raise ServiceError(f"chromedriver did not start; {self._instance.log_tail()}")
            time.sleep(PROBE_INTERVAL_S)
        options = {"binary": self._command, "args": [*FLAGS, f"--user-data-dir={self._profile}"]}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options,
                        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{answer['sessionId']}"

    def close(self) -> None:
        """End it and remove its data."""
        try:
            if self._session:
                self._ask("DELETE", self._session)
        except ServiceError:
            pass  # The driver is gone already, or is about to be.
        finally:
            self._instance.remove()

    def show(self, url: str, width: int, height: int, *, dark: bool = False) -> None:
        """Load a page as a screen of that many pixels shows it; a narrow one is a phone."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height,
                     deviceScaleFactor=1, mobile=width < 500)
        self.command("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self._ask("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """What a function body of JavaScript returns; the page itself runs none."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def command(self, method: str, **parameters: Any) -> Any:
        """A command of Chromium's own protocol, and its answer."""
        return self._ask("POST", f"{self._session}/goog/cdp/execute",
                         {"cmd": method, "params": parameters})

    def console(self) -> list[str]:
        """What the console has shown since the last call, of any level."""
        return [f"{entry['level']}: {entry['message']}" for entry in self._log("browser")]

    def requests(self) -> list[tuple[str, int | str]]:
        """(URL, status, or why it failed) of all that was asked for since the last call."""
        asked: dict[str, str] = {}
        found: list[tuple[str, int | str]] = []
        for entry in self._log("performance"):
            event = json.loads(entry["message"])["message"]
            facts = event["params"]
            if event["method"] == "Network.requestWillBeSent":
                asked[facts["requestId"]] = facts["request"]["url"]
            elif event["method"] == "Network.responseReceived":
                found.append((facts["response"]["url"], facts["response"]["status"]))
            elif event["method"] == "Network.loadingFailed":
                found.append((asked.get(facts["requestId"], "?"), facts["errorText"]))
        return found

    def screenshot(self, path: Path) -> None:
        """Write what the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", f"{self._session}/screenshot")))

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries = self._ask("POST", f"{self._session}/se/log", {"type": kind})
        assert isinstance(entries, list)
        return entries

    def _is_ready(self) -> bool:
        try:
            return bool(self._ask("GET", "/status")["ready"])
        except ServiceError:
            return False

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self._endpoint + path, method=method,
            data=None if method != "POST" else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"})
        try:
            with _OPENER.open(request, timeout=REQUEST_TIMEOUT_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")
            raise ServiceError(f"WebDriver {method} {path}: {error.code}: {told}") from error
        except OSError as error:
            raise ServiceError(f"WebDriver {method} {path}: {error}") from error
