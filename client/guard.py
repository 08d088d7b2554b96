"""Check each request against the partner's policy, charge the ledger, then compute the answer.

The order is fixed. Whether the partner answers such requests at all is checked first. Then a kept
answer is sent again. Otherwise the request is checked, and so is whether the ledger would admit the
charge; the computation is prepared, the ledger is charged, and only then the computation runs; the
answer is on disk before it leaves. A refusal is recorded in the ledger and costs nothing; it comes
before private data are read.

A computation that fails after the charge is the round's answer for ever, and is not repeated.
Whether it fails may depend on the data and on fresh noise, by weights of a coordinator's choice: if
each attempt with others were free, each would tell more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, from_numpy

from client.ledger.ledger import Entry, Ledger
from client.ledger.limits import Limits
from client.ledger.outbox import Room
from client.site.bounds import MEGABYTE, answer_bytes, answer_numbers, check_bounds
from client.site.charges import ask_of, entry_of, planned_requests
from client.site.policy import Ask
from client.site.site import Site
from shared.config import ModelConfig, ModelKind, Optimiser, Trust
from shared.data.catalogue import Catalogue
from shared.errors import Refused, WireError
from shared.messages import (
    PlanRequest,
    Request,
    StatisticsRequest,
    Summed,
    TrainRequest,
)
from shared.outcomes import Refusal
from shared.over_use.labels import COLUMN
from shared.over_use_task import LabelSource, OverUseTask
from shared.privacy.clipping.clipping import LARGEST_NORM, SMALLEST_NORM
from shared.privacy.distributed_noise import LARGEST_SHARE, MOST_NUMBERS, SMALLEST_SHARE
from shared.privacy.release import Release
from shared.sections import LONGEST_NAME

__all__ = ["Computation", "Guard", "Masking", "PointsComputation"]

Answer = dict[str, Tensor]
"""What leaves the site, by name: noised changes of weights, or noised sums."""
Computation = Callable[[], Answer]
Points = NDArray[np.int64]
PointsComputation = Callable[[], Points]
"""Returns a sum with its share of the noise in steps of the grid, [m]."""
_MASKED = "masked"
"""Name of a masked answer in the outbox."""
_FAILED = save({})
"""What the outbox keeps of a computation that failed: an answer without arrays."""
SMALLEST_SPREAD = 1e-20
"""Least standard deviation of a release: near float32's smallest numbers noise rounds to 0."""
LARGEST_SPREAD = 1e20
"""Largest clip norm and noise: near float32's largest numbers a sum would be infinite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """How an answer is masked in one attempt at a sum.

    Attributes:
        attempt: number of the attempt; the ledger and the outbox have it in the place of the round.
        length: how many numbers the partner agreed to mask.
        mask: returns the masked numbers, [m], and has written durably that they were masked.
    """

    attempt: int
    length: int
    mask: Callable[[Points], Points]


class Guard:
    """Applies the partner's policy to each request.

    Args:
        site: whose policy.
        ledger: where its budget is kept.
        catalogue: the one that the site holds.
        unmasked_shares: whether an answer under secure aggregation may leave as it is, in answer
            to a direct request: in the lab alone, where it protects nobody.
    """

    def __init__(
        self, site: Site, ledger: Ledger, catalogue: Catalogue, *, unmasked_shares: bool = False
    ) -> None:
        self._site, self._ledger, self._catalogue = site, ledger, catalogue
        self._unmasked_shares = unmasked_shares

    def answer(self, request: Request, prepare: Callable[[], Computation]) -> Answer:
        """Return the answer to a request: a kept one, or a new one that is charged.

        Args:
            request: what the coordinator asks.
            prepare: does all that may fail, and releases nothing: reads the data, builds the
                model. So a broken data file costs no budget. The computation that it returns is
                called at most once, after the charge, and gives the noised sums.

        Raises:
            Refused: the request is outside the policy, or would overspend. It is recorded.
            LedgerError: the ledger cannot be read or written; nothing was computed.
        """
        return self._answer_or_record(request, entry_of(request), prepare)

    def masked(
        self, request: Request, masking: Masking, prepare: Callable[[], PointsComputation]
    ) -> Points:
        """Return the masked answer to one attempt at a sum, int64 [m].

        Checked, charged and kept as the answer to a direct request, but each attempt has noise and
        a charge of its own: two sums of the same numbers over different partners would differ by
        what single ones added. What the outbox keeps is the masked answer, as it leaves.

        Args:
            request: whose answers are summed.
            masking: the attempt, and what masks the answer after the charge.
            prepare: as in `answer`; the computation gives the points.

        Raises:
            Refused: as in `answer`; or this attempt was answered before, so that the caller's state
                is an older copy.
            LedgerError: as in `answer`.
        """

        def prepare_masked() -> Computation:
            compute = prepare()
            return lambda: {_MASKED: from_numpy(masking.mask(compute()))}

        entry = replace(entry_of(request), round=masking.attempt)
        return _masked_points(self._answer_or_record(request, entry, prepare_masked, masking))

    def kept_masked(self, request: Request, attempt: int) -> Points:
        """Return the masked answer that was kept, int64 [m].

        Raises:
            Refused: none is kept: this partner has dropped out.
            LedgerError: the ledger cannot be read.
        """
        entry = replace(self._with_shares(entry_of(request), request.trust), round=attempt)
        kept = self._ledger.answer(entry)
        if kept is None or kept == _FAILED:
            raise Refused(Refusal.DROPPED, f"no masked answer of attempt {attempt} is kept")
        return _masked_points(load(kept))

    def admit(self, kind: Summed) -> None:
        """Refuse an attempt at a sum that this partner would not answer in the end.

        Raises:
            Refused: it does not answer this kind of request, or knows no peers.
        """
        admit(self._site, _ASKED[kind])
        self._check_roster()

    def check_plan(self, request: PlanRequest) -> None:
        """Check that policy, bounds, budget and room admit a whole run; charge nothing.

        The answer depends on the policy and on the ledger, which holds requests of the past: it
        depends on no user.

        Raises:
            Refused: a request of the run would be refused. It is recorded.
            LedgerError: the ledger cannot be read or written.
        """
        try:
            self._check_plan(request)
        except Refused as refused:
            fields = {"kind": "plan", "run": request.run[:LONGEST_NAME]}
            self._ledger.refuse(refused.code, fields)
            raise

    def _check_plan(self, request: PlanRequest) -> None:
        policy, planned, rooms = self._site.policy, list[Release](), list[tuple[Room, int]]()
        _check_run_name(request.run)
        self._check_catalogue(request.catalogue)
        for asked, count in planned_requests(request, policy):
            # A site that knows its peers is asked for shares of noise in steps of a sum alone.
            in_sums = asked.trust is not Trust.LOCAL and bool(self._site.roster.peers)
            self._check_trust(asked, masked=in_sums)
            entry = self._with_shares(entry_of(asked), asked.trust)
            admit(self._site, ask_of(asked))
            self._check_terms(entry)
            rooms.append((self._check_bounds(asked), count))
            planned.append(replace(entry.release, steps=entry.release.steps * count))
        self._ledger.check_room_of_plan(request.run, rooms, planned)
        releases = self._ledger.plan(request.run, planned)
        self._limits().check(releases, f"run {request.run} as a whole")

    def _answer_or_record(
        self,
        request: Request,
        entry: Entry,
        prepare: Callable[[], Computation],
        masking: Masking | None = None,
    ) -> Answer:
        try:
            admit(self._site, ask_of(request))
            self._check_trust(request, masked=masking is not None)
            entry = self._with_shares(entry, request.trust)
            if masking is not None:
                self._check_attempt(request, entry, masking)
            return self._answer(request, entry, prepare)
        except Refused as refused:
            self._ledger.refuse(refused.code, entry.fields | {"run": entry.run[:LONGEST_NAME]})
            raise
        except WireError as error:
            self._ledger.refuse(Refusal.MALFORMED, entry.fields)
            raise Refused(Refusal.MALFORMED, str(error)) from error

    def _answer(self, request: Request, entry: Entry, prepare: Callable[[], Computation]) -> Answer:
        _check_run_name(entry.run)
        kept = self._ledger.answer(entry)
        if kept is None:
            self._check_terms(entry)
            self._check_model(request)
            room = self._check_bounds(request)
            self._ledger.check_charge(entry, self._limits(), room)
            compute = prepare()
            self._ledger.charge(entry, self._limits(), room)
            kept = self._compute_and_keep(entry, compute, room)
        elif kept == _FAILED:
            raise RuntimeError("the computation of this round failed, and is not repeated")
        # In a fixed order, which `load` does not have: the same bytes go out again.
        return dict(sorted(load(kept).items()))

    def _limits(self) -> Limits:
        policy = self._site.policy
        return Limits(
            max_epsilon=policy.max_epsilon,
            delta=policy.delta,
            max_if_all_collude=policy.max_epsilon_if_all_collude,
        )

    def _compute_and_keep(self, entry: Entry, compute: Computation, room: Room) -> bytes:
        """Return the round's answer, which is kept; keep of a failure that it is one."""
        try:
            body = _run_charged(compute)
        except Exception:
            kept = self._ledger.keep_answer(entry, _FAILED, room=room)
            if kept == _FAILED:
                raise
            return kept  # of another process that was asked the same
        kept = self._ledger.keep_answer(entry, body, room=room)
        if kept == _FAILED:
            raise RuntimeError("the computation of this round failed in another process")
        return kept

    def _check_attempt(self, request: Request, entry: Entry, masking: Masking) -> None:
        """Refuse an attempt of another length than the answer's, or that was answered before."""
        numbers = answer_numbers(request, len(self._catalogue))
        if masking.length != numbers:
            raise Refused(
                Refusal.MALFORMED, f"a sum of {masking.length} numbers; the answer has {numbers}"
            )
        if self._ledger.answer(entry) is not None:
            raise Refused(
                Refusal.DROPPED,
                f"attempt {masking.attempt} of run {request.run} was answered before, and its "
                "session here says that it was not: the session is an older copy",
            )

    def _with_shares(self, entry: Entry, trust: Trust) -> Entry:
        """Return the entry with the noise that its sum has by the partner's own roster."""
        if trust is Trust.LOCAL:
            return entry
        return replace(entry, release=entry.release.with_shares(self._site.roster.honest_shares))

    def _check_trust(self, request: Request, *, masked: bool = False) -> None:
        """Refuse what cannot be kept private as a part of a sum.

        Raises:
            Refused: nothing would mask the answer, the partner knows no peers, or the answer is no
                sum with a share of the noise.
        """
        if request.trust is Trust.LOCAL:
            if masked:
                raise Refused(Refusal.MALFORMED, "a sum is asked for of answers with local trust")
            return
        self._check_roster()
        if not masked and not self._unmasked_shares:
            raise Refused(
                Refusal.POLICY,
                "a share of the noise is asked for and no mask: the answer would leave with the "
                "share alone. This node answers such a request as a part of a sum only",
            )
        share = request.noise_multiplier
        if not SMALLEST_SHARE <= share <= LARGEST_SHARE:
            raise Refused(
                Refusal.POLICY,
                f"a share of the noise of {share:g}, where {SMALLEST_SHARE:g} to "
                f"{LARGEST_SHARE:g} are allowed",
            )
        if isinstance(request, TrainRequest) and not _is_one_sum(request):
            raise Refused(
                Refusal.POLICY,
                f"{request.local_steps} steps by '{request.optimiser}' under secure aggregation, "
                "where one by 'sgd' is allowed: others are no function of the sum",
            )

    def _check_roster(self) -> None:
        if not self._site.roster.honest_shares:
            raise Refused(
                Refusal.POLICY,
                f"secure aggregation is asked for. {self._site.roster.problem}",
            )

    def _check_terms(self, entry: Entry) -> None:
        policy, release = self._site.policy, entry.release
        limits = (
            ("noise multiplier", release.noise_multiplier, ">=", policy.least_noise),
            ("sample rate", release.sample_rate, "<=", policy.max_sample_rate),
            ("clip norm", entry.clip_norm, "<=", min(policy.max_clip_norm, LARGEST_SPREAD)),
            ("steps", release.steps, "<=", policy.max_steps),
        )
        for name, asked, sign, limit in limits:
            if not (asked >= limit if sign == ">=" else asked <= limit):
                raise Refused(
                    Refusal.POLICY, f"{name} {asked:g}, where {sign} {limit:g} is allowed"
                )
        if release.private and not SMALLEST_NORM <= entry.clip_norm <= LARGEST_NORM:
            raise Refused(
                Refusal.POLICY, f"clip norm {entry.clip_norm:g} is beyond float32's reach"
            )
        spread = release.noise_multiplier * entry.clip_norm
        if release.private and not SMALLEST_SPREAD < spread < LARGEST_SPREAD:
            raise Refused(Refusal.POLICY, f"noise of {spread:g} would be lost in float32")

    def _check_model(self, request: Request) -> None:
        self._check_catalogue(request.catalogue)
        weights = {} if isinstance(request, StatisticsRequest) else request.weights
        if not all(np.isfinite(value).all() for value in weights.values()):
            raise Refused(Refusal.MALFORMED, "the global weights are not all finite")

    def _check_catalogue(self, fingerprint: str) -> None:
        if fingerprint != self._catalogue.fingerprint:
            raise Refused(
                Refusal.CATALOGUE,
                f"the request is for catalogue {fingerprint[:12]}, this site holds "
                f"{self._catalogue.fingerprint[:12]}: ask the coordinator for the current one",
            )

    def _check_bounds(self, request: Request) -> Room:
        """Return the room that the answer needs, if the request is within all bounds."""
        site, items = self._site, len(self._catalogue)
        if isinstance(request, TrainRequest) and request.task is not None:
            check_own_labels(site, request.task)
        check_linked_users(site, request.model)
        check_bounds(
            request,
            site.policy,
            population=site.population,
            items=items,
            device=site.torch_device().type,
        )
        numbers = answer_numbers(request, items)
        if request.trust is not Trust.LOCAL and numbers > MOST_NUMBERS:
            raise Refused(Refusal.POLICY, f"a sum of {numbers} numbers under one noise")
        return Room(
            answer_bytes=answer_bytes(request, items),
            max_stored_bytes=site.policy.max_stored_mb * MEGABYTE,
            max_answers=site.policy.max_answers,
        )


def _run_charged(compute: Computation) -> bytes:
    """Return the answer as a safetensors file.

    Raises:
        RuntimeError: the computation raised what the app takes for a refusal. After the charge
            every failure has one code: which one it was could depend on the data.
    """
    try:
        answer = compute()
    except (Refused, WireError) as error:
        raise RuntimeError("a computation that was charged failed") from error
    return save({name: value.contiguous() for name, value in answer.items()})


def admit(site: Site, ask: Ask) -> None:
    """Refuse a kind of request that the partner does not answer.

    Raises:
        Refused: policy.answers does not list it.
    """
    if ask not in site.policy.answers:
        raise Refused(Refusal.POLICY, f"policy.answers does not list '{ask}'")


def check_own_labels(site: Site, task: OverUseTask) -> None:
    """Refuse a task whose times or labels the partner's settings do not have.

    Raises:
        Refused: events have positions, or there is no table of users; it does not depend on data.
    """
    problem = ""
    if site.data.time == "position":
        problem = "data.time = 'position': sessions are known by times"
    elif task.label is LabelSource.COLUMN and not site.data.users:
        problem = f"the label is the column {COLUMN} of data.users, which names no table"
    if problem:
        raise Refused(Refusal.POLICY, problem)


def check_linked_users(site: Site, model: ModelConfig) -> None:
    """Refuse a model for which a user may be in fewer other samples than the partner states.

    Two public constants are compared, and the table of friends is not looked at: a
    coordinator that could try bounds on it would learn the largest number.

    Raises:
        Refused: model.friends is below data.friends_most.
    """
    if model.kind is ModelKind.SOCIAL and model.friends < site.data.friends_most:
        raise Refused(
            Refusal.POLICY,
            f"model.friends {model.friends}, where data.friends_most states that a user may be the "
            f"friend of {site.data.friends_most} others",
        )


def _is_one_sum(request: TrainRequest) -> bool:
    """Return whether the mean of the answers is a function of the sum of the noised gradients."""
    return request.local_steps == 1 and request.optimiser is Optimiser.SGD


def _check_run_name(name: str) -> None:
    if not name.isprintable() or len(name) > LONGEST_NAME:
        raise Refused(Refusal.MALFORMED, f"{name[:LONGEST_NAME]!r} is no name of a run")


_ASKED = {
    Summed.TRAIN: Ask.TRAIN,
    Summed.EVALUATE: Ask.EVALUATE,
    Summed.STATISTICS: Ask.STATISTICS,
}


def _masked_points(answer: Answer) -> Points:
    """Return the one array of a masked answer."""
    points: Points = answer[_MASKED].numpy()
    return points
