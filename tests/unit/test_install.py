"""The page that installs the service: its commands can be told apart, and are shell."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from shared.config import load
from tests.install.__main__ import PROVED, SECTIONS
from tests.install.page import PAGE, sections

TEXT = PAGE.read_text(encoding="utf-8")
SHELL_S = 20


def test_the_program_knows_every_section_that_has_commands() -> None:
    """One that is added to the page is followed, too, and in its place."""
    blocks = sections(TEXT, {})
    assert tuple(title for title in blocks if blocks[title]) == SECTIONS
    assert set(SECTIONS) >= PROVED


def test_what_is_the_readers_own_is_replaced_wherever_it_stands() -> None:
    """And a name that the page does not show is refused: the reader would not find it."""
    blocks = sections(TEXT, {"orders,payments": "a,b", "127.0.0.1:8080": "127.0.0.1:1"})
    assert "KAFKA_TOPICS=a,b\n" in blocks["Settings"][0]
    assert "http://127.0.0.1:1/health" in blocks["Start"][0]
    with pytest.raises(ValueError, match="nowhere.example"):
        sections(TEXT, {"nowhere.example": "x"})


def test_commands_for_other_machines_are_not_typed_here() -> None:
    """Kafka's tools and MinIO's are elsewhere."""
    assert sections(TEXT, {})["Rights"] == []
    assert "kafka-acls.sh" in TEXT


@pytest.mark.parametrize("title", SECTIONS)
def test_every_block_is_shell(title: str) -> None:
    """A typo in a page is found by its reader, at night."""
    shell = shutil.which("bash")
    assert shell is not None
    for block in sections(TEXT, {})[title]:
        done = subprocess.run([shell, "-n", "-c", block], capture_output=True, text=True,
                              timeout=SHELL_S, check=False)
        assert done.returncode == 0, done.stderr


def test_the_settings_of_the_page_are_accepted() -> None:
    """With the secrets that the drop-ins name."""
    block = sections(TEXT, {})["Settings"][0]
    given = dict(re.findall(r"^([A-Z_]+)=(.*)$", block, re.MULTILINE))
    secrets = {"KAFKA_SASL_PASSWORD": "p", "AWS_SECRET_ACCESS_KEY": "s"}
    assert load({**given, **secrets}).topics == ("orders", "payments")
