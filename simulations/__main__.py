"""`python -m simulations` is `sotto-lab`, wherever the console script is not on the PATH."""

from __future__ import annotations

from simulations.cli import main

if __name__ == "__main__":
    main()
