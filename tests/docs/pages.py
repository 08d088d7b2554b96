"""The fenced blocks of a page, and a shell that runs them as a reader would.

| block                          | what a test does with it                                      |
|--------------------------------|---------------------------------------------------------------|
| `sh`                           | runs it, with `bash -e`                                       |
| `sh` after "In a terminal of   | starts it, and leaves it running until the shell is closed;   |
| its own"                       | waits for the words that the text after it quotes: "It says   |
|                                | `...`", "its log says `...`"                                  |
| `python` or `toml` with a title| writes it into the file of that name                          |
| `text` after an `sh` block     | compares it with what the block printed                       |
| `bash`, and all others         | nothing: they are examples                                    |
"""

from __future__ import annotations

import io
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import client.cli
import server.cli
import simulations.cli
from shared.system import command_line

PROGRAMS = {
    "sotto-node": client.cli.main,
    "sotto-server": server.cli.main,
    "sotto-lab": simulations.cli.main,
}
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"says\s+`([^`]+)`")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?|\.\d+")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        language: what follows the fence.
        text: what stands in it.
        title: the file that it is to be saved as, or "".
        line: of its fence in the page, from 1.
        background: whether the text puts it in a terminal of its own.
        says: what a command in the background prints once it is up, or "".
    """

    language: str
    text: str
    title: str
    line: int
    background: bool
    says: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    fences = list(_FENCE.finditer(text))
    found = []
    for at, fence in enumerate(fences):
        before = text[: fence.start()].rstrip().rpartition("\n\n")[2]
        end = fences[at + 1].start() if at + 1 < len(fences) else len(text)
        quoted = _QUOTED.search(text[fence.end() : end])
        background = "n a terminal of its own" in before
        found.append(
            Block(
                language=fence[1],
                title=fence[2] or "",
                text=fence[3],
                line=text.count("\n", 0, fence.start()) + 1,
                background=background,
                says=quoted[1] if background and quoted else "",
            )
        )
    return found


@dataclass
class Shell:
    """A reader's terminal: folder and exported variables last from block to block.

    Attributes:
        folder: where it starts; the text says which folder that is.
        variables: the environment to start with.
        wrapper: words before every command, such as those that enter a network of its own.
    """

    folder: Path
    variables: dict[str, str]
    wrapper: Sequence[str] = ()
    background: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self, script: str, *, answer: str = "", codes: Sequence[int] = (0,)) -> str:
        """Run a block, and return what it printed.

        Args:
            script: the commands.
            answer: what is typed meanwhile.
            codes: exit codes that the text allows.
        """
        state = self.folder / ".shell"
        kept = f"\n{{ export -p; printf 'cd %q\\n' \"$PWD\"; }} > {shlex.quote(str(state))}\n"
        done = subprocess.run(
            [*self.wrapper, "bash", "-e", "-c", self._resumed(script + kept)],
            cwd=self.folder,
            env=self.variables,
            input=answer,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode in codes, f"$ {script}\n{done.stdout}\nexit {done.returncode}"
        return done.stdout

    def run_here(self, command: str) -> str:
        """Run one of Sotto's commands in this process: each start of one takes seconds.

        It reaches no network of the wrapper's, and begins in `folder`. Returns what it prints: as
        at a terminal, or with `--json` on stdout alone.
        """
        out = io.StringIO()
        words = shlex.split(command.replace("\\\n", " ").replace("\n", " "))
        with (
            pytest.MonkeyPatch.context() as patched,
            chdir(self.folder),
            redirect_stdout(out),
            redirect_stderr(io.StringIO() if "--json" in words else out),
        ):
            files = {word: [*map(str, Path().glob(word))] for word in words if "*" in word}
            arguments = [name for word in words for name in files.get(word, [word])]
            patched.setattr(sys, "argv", arguments)
            patched.setattr(sys, "stdin", io.StringIO("y\n"))
            for console in (command_line.output, command_line.messages):
                patched.setattr(console, "width", int(self.variables["COLUMNS"]))
            patched.setenv("HOME", self.variables["HOME"])
            patched.delenv("XDG_STATE_HOME", raising=False)
            with pytest.raises(SystemExit) as ended:
                PROGRAMS[words[0]]()
        assert not ended.value.code, out.getvalue()
        return out.getvalue()

    def start(self, script: str, says: str = "") -> None:
        """Start a block in a terminal of its own, and wait for what it says."""
        log = self.folder / f"terminal-{len(self.background)}.log"
        with log.open("wb") as file:
            self.background[str(log)] = subprocess.Popen(
                [*self.wrapper, "bash", "-c", self._resumed("exec " + script.strip())],
                cwd=self.folder,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        if says:
            self.wait_for(says)

    def wait_for(self, says: str, seconds: float = 90.0) -> None:
        """Wait until the command that was started last has printed something."""
        log, process = list(self.background.items())[-1]
        end = time.monotonic() + seconds
        while says not in (text := Path(log).read_text(encoding="utf-8")):
            assert process.poll() is None, text
            assert time.monotonic() < end, f"'{says}' never came:\n{text}"
            time.sleep(0.1)

    def close(self) -> list[int]:
        """End what runs, as Ctrl-C or a service manager would; return the exit codes."""
        for process in self.background.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        codes = []
        for process in self.background.values():
            try:
                codes.append(process.wait(30))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
        self.background.clear()
        return codes

    def _resumed(self, script: str) -> str:
        state = shlex.quote(str(self.folder / ".shell"))
        return f"[ ! -e {state} ] || . {state}\n{script}"


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return variables of a reader who has just installed: a home of its own, the commands on PATH.

    Threads are limited because other tests run beside.
    """
    home.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {
        "HOME": str(home),
        "PATH": path,
        "LANG": "C.UTF-8",
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    } | more


def clone(folder: Path) -> Path:
    """Copy what git would clone, with what is not committed yet, into a new folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (source := ROOT / name).is_file():
            (target := folder / name).parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode)
    return folder


def check_output(shown: str, printed: str, tolerance: float = 0.02) -> None:
    """Compare an output block with what was printed, line by line.

    Each shown line must have been printed, in this order: the same words, and the same numbers up
    to `tolerance` (absolute, or relative where they are larger than 1). A line of dots stands for
    anything; numbers of seconds and minutes are not compared.
    """
    lines: Iterator[str] = iter(printed.splitlines())
    for line in shown.splitlines():
        if line.strip() in ("", "..."):
            continue
        assert any(_same(line, other, tolerance) for other in lines), f"not printed: {line}"


def _same(shown: str, printed: str, tolerance: float) -> bool:
    if _words(shown) != _words(printed):
        return False
    pairs = zip(_numbers(shown), _numbers(printed), strict=True)
    return all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in pairs)


def _words(line: str) -> str:
    return " ".join(re.sub(r"─+", "─", _NUMBER.sub("#", line)).split())


def _numbers(line: str) -> list[float]:
    timeless = re.sub(r"\d+ (s|min)\b", r"0 \1", line)
    return [float(found.replace(",", "")) for found in _NUMBER.findall(timeless)]
