"""sotto-node trust: which app bundle this node runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from client.bundle.fab import LARGEST, Bundle
from client.bundle.trust import install, trusted, vetted
from client.commands.options import JsonOption, SiteOption, YesOption, opened
from client.ledger.balance import EntryType
from client.site.site import Site
from shared.errors import BundleError, ConfigError
from shared.system.command_line import confirmed, failed, messages, output, table_of, write_json

__all__ = ["trust_command"]


def trust_command(
    bundle: Annotated[Path | None, typer.Argument(help="The .fab file.")] = None,
    *,
    site: SiteOption = Path(),
    fingerprint: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256",
            help="What the coordinator told you over another channel; any other is refused.",
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Show what is trusted, and what was before.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Vet an app bundle: see what is in it, and let this node run it and no other."""
    if listed == (bundle is not None):
        raise ConfigError("name one bundle to trust it, or --list to see which one is trusted.")
    if bundle is None:
        _list(Site.load(site), as_json=as_json)
        return
    loaded = Site.load(site)
    content = _read(bundle)
    found = Bundle.read(content, str(bundle))
    if fingerprint is not None:
        _compare(found, fingerprint)
    _show(loaded, found, as_json=as_json)
    if not yes and fingerprint is None and not confirmed("Shall this node run it, and no other?"):
        failed()
    opened(loaded).trust(found.fingerprint, found.app, found.version)
    placed = install(loaded.flower_home, content)
    messages.print(f"Trusted. Unpacked, read-only, in {escape(str(placed.folder))}", soft_wrap=True)


def _read(file: Path) -> bytes:
    """The bytes that are shown and then installed: read once."""
    try:
        with file.open("rb") as opened_file:
            return opened_file.read(LARGEST + 1)
    except OSError as error:
        raise BundleError(f"{file}: not readable ({error.strerror}). Check the path.") from None


def _compare(found: Bundle, told: str) -> None:
    if told.strip().lower() != found.fingerprint:
        raise BundleError(
            f"its fingerprint is {found.fingerprint}, not {told}: this is another bundle than the "
            "coordinator speaks of. Do not run it; ask them."
        )


def _show(site: Site, found: Bundle, *, as_json: bool) -> None:
    before = trusted(site.flower_home)
    changes = list(before.bundle.differences(found)) if before is not None else []
    if as_json:
        replaced = before.bundle.fingerprint if before is not None else None
        write_json(_about(found) | {"replaces": replaced, "changes": changes})
        return
    table = table_of("file", "bytes", "SHA-256")
    for path, size, digest in found.listing():
        table.add_row(path, f"{size:,}", digest)
    output.print(table)
    output.print(f"app          {found.app} {found.version}, ClientApp {found.clientapp}")
    output.print(f"files        {len(found.files)}, {sum(map(len, found.files.values())):,} bytes")
    output.print(f"fingerprint  {found.fingerprint}", soft_wrap=True)
    if before is not None:
        counts = Counter(kind for kind, _ in changes)
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing changed"
        output.print(f"replaces     {before.bundle.fingerprint}: {told}", soft_wrap=True)
        for kind, path in changes:
            output.print(f"  {kind:<8} {path}", soft_wrap=True, markup=False)
    messages.print(
        "It is code, and will run here beside your data. Compare the fingerprint with what the "
        "coordinator told you over another channel, and read the code or build it yourself.",
        soft_wrap=True,
    )


def _about(found: Bundle) -> dict[str, Any]:
    return {
        "fingerprint": found.fingerprint,
        "app": found.app,
        "version": found.version,
        "clientapp": found.clientapp,
        "files": [
            {"path": path, "bytes": size, "sha256": digest}
            for path, size, digest in found.listing()
        ],
    }


def _list(site: Site, *, as_json: bool) -> None:
    """What is trusted now and was before; exit 1 where it would not run."""
    past = [
        {"at": r.fields["at"], **{k: r.fields[k] for k in ("bundle", "name", "version")}}
        for r in opened(site).history()
        if r.type is EntryType.TRUSTED
    ]
    try:
        wrong, now = "", vetted(site).bundle.fingerprint
    except BundleError as error:
        wrong, now = str(error), None
    if as_json:
        write_json({"trusted": now, "problem": wrong or None, "history": past})
    else:
        table = table_of("trusted (UTC)", "app", "version", "fingerprint")
        for entry in past:
            at = entry["at"][:16].replace("T", " ")
            table.add_row(at, entry["name"], entry["version"], entry["bundle"])
        output.print(table)
        output.print(wrong or f"This node runs {now}", soft_wrap=True, markup=False)
    if wrong:
        failed()
