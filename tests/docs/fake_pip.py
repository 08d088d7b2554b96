"""Stands in for pip: looks whether what a page installs is there, and installs nothing."""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path


def main() -> None:
    """Check the arguments of `pip install`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["install"])
    parser.add_argument("--constraint", type=Path, required=True)
    parser.add_argument("--extra-index-url")
    parser.add_argument("--editable", action="store_true")
    parser.add_argument("source")
    given = parser.parse_args()
    assert given.constraint.is_file(), given.constraint
    match = re.fullmatch(r"(.+)\[([\w,]+)\]", given.source)
    assert match is not None, given.source
    project = tomllib.loads(Path(match[1], "pyproject.toml").read_text())["project"]
    assert set(match[2].split(",")) <= set(project["optional-dependencies"]), given.source


if __name__ == "__main__":
    main()
