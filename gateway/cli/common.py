"""What several commands share: settings from the command line, and output as text or JSON."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from gateway.audit.text import printable
from gateway.home import Home
from gateway.settings import Settings, load_settings

Verbs = Any  # argparse keeps the type of a sub-parsers action to itself
Arguments = argparse.Namespace


def settings_of(arguments: Arguments, **flags: Any) -> Settings:
    """Settings from the file, the environment and these flags."""
    file: Path | None = arguments.config
    if file is None and Path("toolgate.yaml").is_file():
        file = Path("toolgate.yaml")
    home = str(arguments.home) if arguments.home else None
    return load_settings(file, os.environ, {"home": home, **flags})


def home_of(arguments: Arguments) -> Home:
    """The home folder of a gateway that was started before."""
    home = Home(settings_of(arguments).home)
    home.must_exist()
    return home


def say(arguments: Arguments, value: Any, text: str) -> None:
    """Prints `value` as JSON when that was asked for, else `text`: each line of it, or JSON, safe for a terminal."""
    print(json.dumps(value, default=str) if arguments.json else "\n".join(map(printable, text.split("\n"))))


def when(seconds: float | None) -> str:
    """A unix time for people, in UTC."""
    return "-" if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
