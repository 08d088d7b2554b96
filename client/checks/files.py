"""Who may open what, and whose app the node would run."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from client.checks.base import Check, Facts, Verdict, fine, odd, wrong
from client.keys import others_may, public_file, public_key
from client.processes import executable

__all__ = ["CHECKS"]

_FLOWER = "1.41."


def _seed(facts: Facts) -> Verdict:
    facts.site.check_seed({})
    return fine("noise comes from the operating system")


def _folder(facts: Facts) -> Verdict:
    folder = Path(facts.site.folder)
    if mode := others_may(folder):
        return odd(
            f"{folder}: its permissions are {mode}: others may look in", f"chmod 700 {folder}"
        )
    return fine(f"{folder}, its owner's alone")


def _key(facts: Facts) -> Verdict:
    file = facts.site.key_file
    line = public_key(file)
    if mode := others_may(file):
        return wrong(
            f"{file}: its permissions are {mode}: others may read the node's key",
            f"chmod 600 {file}; if others could have read it, make a new key and register that.",
        )
    public = public_file(file)
    if not public.exists() or public.read_text(encoding="utf-8").split()[:2] != line.split()[:2]:
        return odd(
            f"{public}: not the public half of {file}",
            f"Write it anew: ssh-keygen -y -f {file} > {public}",
        )
    return fine(f"{file}, its owner's alone")


def _credentials(facts: Facts) -> Verdict:
    if not (name := facts.site.data.credentials):
        return fine("no file named")
    file = Path(facts.site.folder, name)
    if mode := others_may(file):
        return wrong(
            f"{file}: its permissions are {mode}: others may read the source's secrets",
            f"chmod 600 {file}; if others could have read it, change the secrets.",
        )
    return fine(f"{file}, its owner's alone")


def _flower(_: Facts) -> Verdict:
    remedy = "Install Flower again: pip install 'flwr==1.41.*'."
    try:
        found = version("flwr")
    except PackageNotFoundError:
        return wrong("Flower is not installed", remedy)
    if not found.startswith(_FLOWER):
        return wrong(f"Flower {found}, but this app is for {_FLOWER}*", remedy)
    if executable() is None:
        return wrong("flower-supernode is neither beside Python nor on PATH", remedy)
    return fine(f"Flower {found}")


def _app(facts: Facts) -> Verdict:
    apps = facts.site.flower_home / "apps"
    found = sorted(apps.glob("*/pyproject.toml"))
    remedy = (
        f"Build or get the bundle, look at it, then: FLWR_HOME={facts.site.flower_home} flwr "
        f"install FILE.fab; chmod -R a-w {apps}"
    )
    if not found:
        return odd("no app is installed: the node would run whatever the coordinator sends", remedy)
    places = [apps, *(place for file in found for place in (file.parent, *file.parent.rglob("*")))]
    if os.name == "posix" and any(place.stat().st_mode & 0o222 for place in places):
        return odd(f"{apps} is writable: the coordinator may add or change the app", remedy)
    if os.name == "posix" and os.geteuid() == 0:
        remedy = "Run the node as a user of its own: nothing is read-only for root."
        return odd("the node would run as root, who may change the app that you vetted", remedy)
    return fine(", ".join(file.parent.name for file in found))


CHECKS = (
    Check("seed", _seed, "Remove the [lab] table."),
    Check("folder", _folder, "Check the path."),
    Check("key", _key, "Put the node's key back, or make a new one and register that."),
    Check("credentials", _credentials, "Check data.credentials."),
    Check("flower", _flower, "Install Sotto again."),
    Check("app", _app, "Check coordinator.flower and who may read it."),
)
