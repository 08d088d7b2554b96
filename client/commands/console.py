"""sotto-node console: a local web page about one's own node."""

from __future__ import annotations

import html
import json
import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from client.commands.options import SiteOption
from client.console.run import Place, run_console
from client.node.up import begin_log
from client.serving.service.clients import Tls
from client.site.site import Site
from shared.errors import ConfigError, SiteError
from shared.system.address import Address
from shared.system.command_line import messages, output
from shared.system.files import PRIVATE, write_atomically

__all__ = ["console_command"]

_FILE = "console.html"


def console_command(  # noqa: PLR0913 each is a command-line option
    model: Annotated[
        Path | None,
        typer.Argument(
            help="The published folder, with model/ and catalogue/.", show_default="[serve] model"
        ),
    ] = None,
    *,
    before: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="An earlier published folder, to compare with."),
    ] = None,
    address: Annotated[
        str, typer.Option(help="Where to listen, host:port; port 0 takes a free one.")
    ] = "127.0.0.1:9473",
    certificate: Annotated[
        Path | None, typer.Option(help="PEM chain, needed beyond this machine.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Host by which browsers reach it beyond this machine; may be repeated."),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open it in a browser.")] = True,
    site: SiteOption = Path(),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON once it can be opened.")
    ] = False,
) -> None:
    """Look at your node in a browser: what left, what is left, recommendations, quality, health."""
    owner = Site.load(site)
    if model is None:
        model = owner.serve.path(Path(owner.folder), "model")
    for option, folder in (("MODEL", model), ("--before", before)):
        if folder is not None and not folder.is_dir():
            raise ConfigError(
                f"{option} {folder}: there is no such folder. Name the one that the coordinator "
                "published."
            )
    place = _place(address, certificate, key, tuple(name or ()))
    begin_log()
    opened: list[Path] = []

    def started(url: str) -> None:
        if as_json:
            sys.stdout.write(json.dumps({"url": url}) + "\n")
            sys.stdout.flush()
        else:
            output.print(f"The console of {owner.organisation}:\n  {url}", soft_wrap=True)
            messages.print("Anyone who has this address can look. Ctrl-C ends it.")
        if browser and not as_json and _has_display():
            opened.append(_open(url, Path(owner.folder)))

    try:
        run_console(owner, model, before, place, started)
    finally:
        for file in opened:
            file.unlink(missing_ok=True)


def _has_display() -> bool:
    """Return whether a browser of the desktop would open, and not one that takes the terminal."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def _open(url: str, folder: Path) -> Path:
    """Open an address by a file that only its owner reads: arguments of a process are public."""
    file = folder / _FILE
    page = f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={html.escape(url)}">'
    write_atomically(file, page.encode(), mode=PRIVATE)
    webbrowser.open(file.resolve().as_uri())
    return file


def _place(text: str, certificate: Path | None, key: Path | None, names: tuple[str, ...]) -> Place:
    free = text.endswith(":0")
    address = Address.parse(f"{text[:-2]}:1" if free else text)
    if address is None:
        raise SiteError(f"--address {text}: give host:port, as in 127.0.0.1:9473.")
    if (certificate is None) is not (key is None):
        raise SiteError("--certificate and --key: TLS needs both.")
    tls = None
    if certificate is not None and key is not None:
        tls = Tls(certificate, key)
        tls.check()
    return Place(host=address.host, port=0 if free else address.port, tls=tls, names=names)
