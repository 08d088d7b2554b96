"""Ask every organisation whether it can pay for the whole run, before any is charged.

A partner's guard answers from its policy and its ledger, and charges nothing. Without the question,
a partner whose budget ends within the run would be noticed only when the others have paid for
rounds that do not reach a quorum.
"""

from __future__ import annotations

from flwr.serverapp import Grid

from server.rounds.collection import Collection, LookUp, Memory, OnMiss
from server.rounds.collection_report import CollectionReport
from server.rounds.requests import plan_spec
from shared.config import ServerConfig
from shared.errors import QuorumError
from shared.messages import PlanRequest

__all__ = ["ask_whether_all_can_pay"]


def ask_whether_all_can_pay(
    grid: Grid, look_up: LookUp, request: PlanRequest, config: ServerConfig, on_miss: OnMiss
) -> CollectionReport:
    """Ask, and ask those again that did not answer, until a quorum can pay.

    Args:
        grid: Flower's.
        look_up: returns the organisations; called before every attempt.
        request: the whole run.
        config: quorum, deadline and retries.
        on_miss: called with each attempt in which too few could pay.

    Raises:
        QuorumError: too few can; it names each that cannot, and its code's sentence.
    """
    collection = Collection(plan_spec(request), config, Memory())
    try:
        collection.collect(grid, look_up, on_miss)
    except QuorumError as error:
        report = collection.report
        raise QuorumError(
            f"{report.valid} of {len(report.verdicts)} organisations can pay for the whole run, "
            f"{report.needed} are needed ({report.failures or 'no organisation is connected'}). "
            "Nothing was charged. Start a new run that costs less (privacy.epsilon); or, when the "
            "partners have changed their policy, or with a smaller quorum, resume this one: "
            "sotto-server resume RUN --quorum SHARE"
        ) from error
    return collection.report
