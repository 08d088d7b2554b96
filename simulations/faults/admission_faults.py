"""Faults at the coordinator's door: forbidden paths, an unregistered node, a revoked key."""

from __future__ import annotations

import ssl

import httpx

from simulations.faults.deployment import Deployment
from simulations.faults.injection import finished_rounds, run_status, wait_for_round

__all__ = ["request_forbidden_paths", "revoke_key", "start_unregistered_node"]


def request_forbidden_paths(deployment: Deployment) -> str:
    """Request paths of the coordinator that partners may not reach."""
    context = ssl.create_default_context(cafile=str(deployment.server / "ca.crt"))
    address, answers = f"https://localhost:{deployment.link.port}", []
    for path in ("/v1/runtime/acquire-task", "/v1/control/list-runs", "/docs", "/openapi.json"):
        answer = httpx.post(address + path, verify=context, timeout=20)
        answers.append(f"{path} {answer.status_code}")
        assert answer.status_code in (403, 404, 405), f"{path}: {answer.status_code}"
    return ", ".join(answers)


def start_unregistered_node(deployment: Deployment) -> str:
    """Start a node whose key is not registered, for three rounds."""
    deployment.init_node("mallory")
    deployment.up_node("mallory")
    wait_for_round(deployment, finished_rounds(deployment) + 3)
    assert "mallory" not in run_status(deployment).organisations
    deployment.down("mallory")
    return "never took part"


def revoke_key(deployment: Deployment) -> str:
    """Revoke a partner's key; the partner stays out."""
    deployment.call("server", "revoke", "gamma", "--server", deployment.server)
    wait_for_round(deployment, finished_rounds(deployment) + 3)
    partner = run_status(deployment).organisations["gamma"]
    assert not partner.connected
    return f"{partner.outcome} from then on"
