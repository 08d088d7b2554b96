"""Which site a node serves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.site.site import FILE
from shared.errors import SiteError
from shared.sections import Value

__all__ = ["locate"]


def locate(node_config: Mapping[str, Value], run_config: Mapping[str, Value]) -> Path:
    """Return the folder of the site that a node serves.

    A partner's node says so itself (`--node-config 'site="..."'`). A simulated node only has a
    number; it takes the folder of that rank below the run's `paths.sites`. The run config is the
    coordinator's, so it counts for simulated nodes alone.

    Raises:
        SiteError: neither is given, or there is no folder of that rank.
    """
    if "site" in node_config:
        return Path(str(node_config["site"]))
    rank, sites = node_config.get("partition-id"), str(run_config.get("paths.sites", ""))
    if rank is None or not sites:
        raise SiteError(
            "this node does not know its site: start it with --node-config 'site=\"PATH\"'; "
            "for a simulation, set paths.sites in the run config."
        )
    folders = sorted(file.parent for file in Path(sites).expanduser().glob(f"*/{FILE}"))
    if int(rank) >= len(folders):
        raise SiteError(
            f"{sites} holds {len(folders)} sites, but a simulated node has number {rank}: "
            "simulate as many nodes as there are sites."
        )
    return folders[int(rank)]
