"""What organisations of other domains add: the same users, federated with their own domain alone.

A run with `lab.domains = G` federates organisations with G parts of a catalogue. This writes, for
each part, a folder with the organisations, users and items of that part alone, in the lab's own
form. The same settings on such a folder give what these organisations reach among themselves:

    sotto-lab simulate --set lab.domains=2 ... --out runs/both
    python -m simulations.benchmarks.cross_domain runs/both halves
    sotto-lab simulate --data halves/domain-1 --set lab.partition=partner ... --out runs/one

`docs/cross-domain.md` has the figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shared.data.domains import ItemSet, only, own_items
from shared.data.reading import write_interactions
from shared.errors import ConfigError
from simulations.experiment.prepare import reopen
from simulations.experiment.simulation import Simulation

__all__ = ["main", "write_domain"]


def write_domain(simulation: Simulation, domain: str, folder: Path) -> None:
    """Write the users and items of a domain's organisations into a folder.

    Args:
        simulation: with domains.
        domain: one of them.
        folder: does not exist.
    """
    numbers = [n for n in range(len(simulation.parts)) if simulation.domain(n) == domain]
    own = ItemSet(own_items(simulation.dataset.catalogue, [domain]))
    whole = simulation.dataset.histories
    histories = own.narrow(whole.select(np.concatenate([simulation.parts[n] for n in numbers])))
    catalogue = only(simulation.dataset.catalogue.without_features(), own.own)
    catalogue.save(folder)
    file = folder / "interactions.parquet"
    write_interactions(histories, catalogue, file, timed=whole.times is not None)
    names = [simulation.names[n] for n in numbers for _ in simulation.parts[n]]
    users = {"user_id": list(histories.users), "partner": names}
    pq.write_table(pa.table(users), folder / "users.parquet")


def main() -> None:
    """Write a folder for each domain of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run with lab.domains > 1")
    parser.add_argument("out", type=Path, help="for a folder of each domain")
    given = parser.parse_args()
    simulation = reopen(given.run, {}, [])
    domains = sorted(set(simulation.dataset.catalogue.domains))
    if not domains:
        raise ConfigError(f"{given.run} has no domains: simulate with --set lab.domains=2.")
    for domain in domains:
        write_domain(simulation, domain, given.out / domain)
        print(given.out / domain)  # noqa: T201


if __name__ == "__main__":
    main()
