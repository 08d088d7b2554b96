"""Check the permissions of the site's files, and the version of Flower."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from client.checks.base import Check, Facts, Verdict, doubtful, failed, passed
from client.site.keys import others_may, public_file, public_key

__all__ = ["CHECKS"]

_FLOWER = "1.41."


def _seed(facts: Facts) -> Verdict:
    facts.site.check_seed({})
    return passed("the noise is drawn from the operating system's random numbers")


def _folder(facts: Facts) -> Verdict:
    folder = Path(facts.site.folder)
    allowed = 0o050 if facts.site.node.executor_user else 0  # the app's user comes in by its group
    mode = others_may(folder)
    if mode and int(mode, 8) & 0o077 & ~allowed:
        return doubtful(
            f"{folder}: its permissions are {mode}: others may look in", f"chmod 700 {folder}"
        )
    return passed(f"{folder}: nobody but its owner can open it")


def _key(facts: Facts) -> Verdict:
    file = facts.site.key_file
    line = public_key(file)
    if mode := others_may(file):
        return failed(
            f"{file}: its permissions are {mode}: others may read the node's key",
            f"chmod 600 {file}; if others could have read it, make a new key and register that.",
        )
    public = public_file(file)
    if not public.exists() or public.read_text(encoding="utf-8").split()[:2] != line.split()[:2]:
        return doubtful(
            f"{public}: not the public half of {file}",
            f"Write it anew: ssh-keygen -y -f {file} > {public}",
        )
    return passed(f"{file}: nobody but its owner can open it")


def _credentials(facts: Facts) -> Verdict:
    if not (name := facts.site.data.credentials):
        return passed("site.toml names no file with credentials")
    file = Path(facts.site.folder, name)
    if mode := others_may(file):
        return failed(
            f"{file}: its permissions are {mode}: others may read the source's secrets",
            f"chmod 600 {file}; if others could have read it, change the secrets.",
        )
    return passed(f"{file}: nobody but its owner can open it")


def _flower(_: Facts) -> Verdict:
    remedy = "Install Flower again: pip install 'flwr==1.41.*'."
    try:
        installed = version("flwr")
    except PackageNotFoundError:
        return failed("Flower is not installed", remedy)
    if not installed.startswith(_FLOWER):
        return failed(f"Flower {installed}, but this app is for {_FLOWER}*", remedy)
    return passed(f"Flower {installed}")


CHECKS = (
    Check("seed", _seed, "Remove the [lab] table."),
    Check("folder", _folder, "Check the path."),
    Check("key", _key, "Put the node's key back, or make a new one and register that."),
    Check("credentials", _credentials, "Check data.credentials."),
    Check("flower", _flower, "Install Flower again."),
)
