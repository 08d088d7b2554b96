"""A partner at the command line, as in tests/client."""

from tests.client.conftest import partner, sotto_node

__all__ = ["partner", "sotto_node"]
