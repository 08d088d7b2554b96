"""sotto-node serve: recommendations over gRPC and HTTP, and feedback."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import click
import typer

from client.commands.options import SiteOption
from client.node.up import begin_log
from client.serving.service.clients import add_client
from client.serving.service.serve import Started, serve
from client.site.serve import ServeConfig
from client.site.site import Site
from shared.errors import ConfigError, SiteError
from shared.system.address import Address
from shared.system.command_line import messages, output

__all__ = ["serve_command"]

_OFF = "none"


def serve_command(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="The published folder, with model/ and catalogue/.", show_default="[serve] model"
        ),
    ] = None,
    *,
    grpc: Annotated[
        str | None,
        typer.Option(help="Address of gRPC, or none.", show_default="[serve] grpc"),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(help="Address of JSON over HTTP, or none.", show_default="[serve] http"),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Address of metrics, or none.", show_default="[serve] metrics"),
    ] = None,
    client: Annotated[
        str | None,
        typer.Option(
            "--add-client",
            metavar="NAME",
            help="Only print a new bearer token for a client, and add it to [serve] clients.",
        ),
    ] = None,
    site: SiteOption = Path(),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON once requests are answered.")
    ] = False,
) -> None:
    """Serve recommendations to your own programs, and take their feedback. Nothing leaves."""
    owner = Site.load(site)
    if client is not None:
        _add(owner, client)
        return
    addresses = {"grpc": grpc, "http": http, "metrics": metrics}
    stated = {
        name: "" if text == _OFF else text for name, text in addresses.items() if text is not None
    }
    owner = replace(owner, serve=_changed(owner.serve, stated))
    if not (owner.serve.grpc or owner.serve.http):
        raise SiteError("serve.grpc and serve.http are both off: give one of them an address.")
    folder = model if model is not None else owner.serve.path(Path(owner.folder), "model")
    if folder is None:
        raise click.UsageError("name the published folder, or set model below [serve].")
    begin_log()
    messages.print("reading the model and your data ...")
    serve(owner, folder, lambda started: _print(started, as_json=as_json))


def _changed(settings: ServeConfig, stated: dict[str, str]) -> ServeConfig:
    try:
        return replace(settings, **stated)  # type: ignore[arg-type]  # all of them are texts
    except ConfigError as error:
        raise SiteError(str(error)) from error


def _add(owner: Site, name: str) -> None:
    """Make a token, and show it this once."""
    file = owner.serve.path(Path(owner.folder), "clients")
    if file is None:
        raise SiteError(
            "serve.clients is not set: name a file for the clients below [serve] in site.toml, "
            'such as clients = "clients.toml".'
        )
    token = add_client(file, name)
    messages.print(f"The token of '{name}'. It is shown once; {file} holds its digest alone:")
    sys.stdout.write(token + "\n")


def _print(started: Started, *, as_json: bool) -> None:
    listeners = {
        name: None if at is None else str(Address(*at))
        for name, at in (
            ("grpc", started.grpc),
            ("http", started.http),
            ("metrics", started.metrics),
        )
    }
    about = asdict(started) | listeners
    if as_json:
        sys.stdout.write(json.dumps(about) + "\n")
        sys.stdout.flush()
        return
    where = ", ".join(f"{name} on {at}" for name, at in listeners.items() if at)
    output.print(f"Serving {started.items:,} items: {where}. Ctrl-C ends it.", soft_wrap=True)
