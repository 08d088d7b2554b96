"""sotto-node trust: vet an app bundle, and choose it as the one that this node runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from client.bundle.fab import LARGEST, Bundle
from client.bundle.trust import install, read_trusted, verify_trusted
from client.commands.options import JsonOption, SiteOption, YesOption, open_ledger
from client.ledger.balance import EntryType
from client.site.site import Site
from shared.errors import BundleError, ConfigError
from shared.system.command_line import confirm, failed, messages, output, table_of, write_json

__all__ = ["trust_command"]


def trust_command(
    bundle: Annotated[Path | None, typer.Argument(help="The .fab file.")] = None,
    *,
    site: SiteOption = Path(),
    fingerprint: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256",
            help="The fingerprint that the coordinator gave you over another channel.",
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Show the bundle that is trusted, and earlier ones.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what is in an app bundle, and let this node run this bundle and no other."""
    if listed == (bundle is not None):
        raise ConfigError("name one bundle to trust it, or use --list to see which one is trusted.")
    if bundle is None:
        _list(Site.load(site), as_json=as_json)
        return
    loaded = Site.load(site)
    content = _read(bundle)
    parsed = Bundle.parse(content, str(bundle))
    if fingerprint is not None:
        _check_fingerprint(parsed, fingerprint)
    _show(loaded, parsed, as_json=as_json)
    question = "Let this node run this bundle and no other?"
    if not yes and fingerprint is None and not confirm(question):
        failed()
    open_ledger(loaded).trust(parsed.fingerprint, parsed.app, parsed.version)
    app = install(loaded.flower_home, content)
    messages.print(
        f"Trusted. It is unpacked, read-only, in {app.folder}\n"
        f"Next: sotto-node check --site {loaded.folder}",
        soft_wrap=True,
    )


def _read(file: Path) -> bytes:
    """Read the bytes once, so that what is shown is what is installed."""
    try:
        with file.open("rb") as opened_file:
            return opened_file.read(LARGEST + 1)
    except OSError as error:
        raise BundleError(f"{file}: not readable ({error.strerror}). Check the path.") from None


def _check_fingerprint(bundle: Bundle, expected: str) -> None:
    if expected.strip().lower() != bundle.fingerprint:
        raise BundleError(
            f"its fingerprint is {bundle.fingerprint}, not {expected}: this is not the bundle that "
            "the coordinator announced. Do not run it; ask the coordinator."
        )


def _show(site: Site, bundle: Bundle, *, as_json: bool) -> None:
    before = read_trusted(site.flower_home)
    changes = list(before.bundle.differences(bundle)) if before is not None else []
    if as_json:
        replaced = before.bundle.fingerprint if before is not None else None
        write_json(_about(bundle) | {"replaces": replaced, "changes": changes})
        return
    table = table_of("file", "bytes", "SHA-256")
    for path, size, digest in bundle.listing():
        table.add_row(path, f"{size:,}", digest)
    output.print(table)
    output.print(f"app          {bundle.app} {bundle.version}, ClientApp {bundle.clientapp}")
    size = sum(map(len, bundle.files.values()))
    output.print(f"files        {len(bundle.files)}, {size:,} bytes")
    output.print(f"fingerprint  {bundle.fingerprint} (SHA-256 of the file)", soft_wrap=True)
    if before is not None:
        counts = Counter(kind for kind, _ in changes)
        summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        output.print(
            f"replaces     {before.bundle.fingerprint}: {summary or 'nothing changed'}",
            soft_wrap=True,
        )
        for kind, path in changes:
            output.print(f"  {kind:<8} {path}", soft_wrap=True, markup=False)
    messages.print(
        "This code will run on this machine with access to your data. Compare the fingerprint with "
        "the one that the coordinator gave you over another channel, and read the code or build "
        "the bundle yourself.",
        soft_wrap=True,
    )


def _about(bundle: Bundle) -> dict[str, Any]:
    return {
        "fingerprint": bundle.fingerprint,
        "app": bundle.app,
        "version": bundle.version,
        "clientapp": bundle.clientapp,
        "files": [
            {"path": path, "bytes": size, "sha256": digest}
            for path, size, digest in bundle.listing()
        ],
    }


def _list(site: Site, *, as_json: bool) -> None:
    """Print the trusted bundle and earlier ones; exit with 1 if the node would not run it."""
    past = [
        {"at": r.fields["at"], **{k: r.fields[k] for k in ("bundle", "name", "version")}}
        for r in open_ledger(site).history()
        if r.type is EntryType.TRUSTED
    ]
    try:
        problem, current = "", verify_trusted(site).bundle.fingerprint
    except BundleError as error:
        problem, current = str(error), None
    if as_json:
        write_json({"trusted": current, "problem": problem or None, "history": past})
    else:
        table = table_of("trusted (UTC)", "app", "version", "fingerprint")
        for entry in past:
            at = entry["at"][:16].replace("T", " ")
            table.add_row(at, entry["name"], entry["version"], entry["bundle"])
        output.print(table)
        output.print(problem or f"This node runs {current}", soft_wrap=True, markup=False)
    if problem:
        failed()
