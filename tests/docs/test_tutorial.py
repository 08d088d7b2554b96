"""The tutorial, as it is written, in a clone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.docs.pages import DOCS, Shell, blocks, check_output, clone, environment


def installed(folder: Path) -> Path:
    """A clone after `make setup`: a .venv that holds this environment's commands."""
    clone(folder)
    bin_ = folder / ".venv" / "bin"
    bin_.mkdir(parents=True)
    for program in Path(sys.executable).parent.iterdir():
        (bin_ / program.name).symlink_to(program)
    (bin_ / "activate").unlink(missing_ok=True)
    (bin_ / "activate").write_text(f'export PATH="{bin_}:$PATH"\n')
    for file in ("pyproject.toml", "constraints.txt"):
        os.utime(folder / file, (0, 0))
    (folder / ".venv" / ".ready").touch()
    return folder


def test_the_tutorial_runs_as_it_is_written(tmp_path: Path) -> None:
    path = os.pathsep.join(["/usr/bin", "/bin"])
    variables = environment(tmp_path / "home", PATH=path, PYTHONPATH=str(tmp_path / "sotto"))
    shell = Shell(installed(tmp_path / "sotto"), variables)
    printed, typed = "", 0
    for block in blocks(DOCS / "tutorial.md"):
        if block.language == "sh":
            lab = block.text.startswith("sotto-lab ") and block.text.count("\n") == 1
            typed += lab
            printed = shell.run_here(block.text) if lab and typed > 1 else shell.run(block.text)
        elif block.title:
            (shell.folder / block.title).write_text(block.text)
        elif block.language == "text":
            check_output(block.text, printed)
    assert (shell.folder / "runs" / "demo" / "result.json").is_file()
    assert (shell.folder / "runs" / "frontier" / "report.html").is_file()
