"""What left and what is left: the pages say what ledger, outbox and accountant say."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from client.console.accounts import MOST_REFRESHES, Accounts, forecast
from client.ledger.ledger import Entry
from client.ledger.limits import Limits
from client.site.statement import read_statement
from shared.errors import LedgerError
from shared.privacy.accounting.accountant import epsilon
from shared.privacy.release import Release, ReleaseKind, merge
from tests.client.ledger.spending import FIRST, SECOND, Spending

if TYPE_CHECKING:
    from tests.conftest import Sites

LIMIT, DELTA = 2.0, 1e-3


@pytest.fixture
def lived(sites: Sites) -> Spending:
    spending = Spending(sites.make("alpha", {"policy.max_epsilon": LIMIT}))
    spending.live()
    return spending


def test_every_answer_has_its_release_and_its_cost(lived: Spending) -> None:
    books, ledger = Accounts(lived.site).read(), lived.ledger
    assert [one.answer for one in reversed(books.sent)] == ledger.outbox()
    assert [run.run for run in books.runs] == [SECOND, FIRST]
    assert books.bytes == sum(answer.bytes for answer in ledger.outbox())
    spent: list[Release] = []
    for one in reversed(books.sent):
        kind = ReleaseKind(one.answer.kind)
        noise, steps = (1.5, 2) if one.answer.run == SECOND else (2.0, 1)
        release = Release(kind=kind, noise_multiplier=noise, sample_rate=0.1, steps=steps)
        spent.append(release)
        assert one.release == release
        assert one.alone == epsilon([release], DELTA)
        assert one.so_far == epsilon(merge(spent), DELTA)
    assert books.sent[0].so_far == books.statement.spent == ledger.spent(DELTA)
    assert books.statement == read_statement(lived.site, ledger)
    assert books.unsent == 0


def test_it_is_read_again_when_the_ledger_grows(lived: Spending) -> None:
    accounts = Accounts(lived.site)
    before = accounts.read()
    assert accounts.read() is before
    lived.ledger.trust("3f" * 32, "sotto", "0.9")
    release = Release(kind=ReleaseKind.TRAIN, noise_multiplier=2.0, sample_rate=0.1, steps=1)
    entry = Entry(run=SECOND, round=9, release=release)
    lived.ledger.charge(entry, Limits(max_epsilon=LIMIT, delta=DELTA))
    after = accounts.read()
    assert after.unsent == 1
    assert after.sent == before.sent
    assert after.statement.spent > before.statement.spent
    assert after.trusted == ("sotto", "0.9", "3f" * 32)
    lived.site.ledger_file.write_bytes(b"no ledger")
    with pytest.raises(LedgerError):
        accounts.read()


def test_so_many_refreshes_fit_and_not_one_more(lived: Spending) -> None:
    books = Accounts(lived.site).read()
    coming, statement = books.forecast, books.statement
    assert coming is not None
    assert coming.refreshes is not None

    def cost(times: int) -> float:
        spent = [release for run in statement.runs for release in run.releases]
        more = [replace(r, steps=r.steps * times) for r in statement.runs[-1].releases]
        return epsilon(merge([*spent, *more]), DELTA)

    assert coming.refreshes > 2
    assert cost(coming.refreshes) <= LIMIT < cost(coming.refreshes + 1)
    assert list(coming.costs) == [cost(n) for n in range(1, len(coming.costs) + 1)]


def test_until_when_follows_from_the_pace(lived: Spending) -> None:
    statement = read_statement(lived.site, lived.ledger)
    begins = [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)]
    runs = tuple(
        replace(run, first=begin.isoformat(), last=begin.isoformat())
        for run, begin in zip(statement.runs, begins, strict=True)
    )
    coming = forecast(replace(statement, runs=runs))
    assert coming is not None
    assert coming.refreshes is not None
    assert coming.pace == timedelta(days=60)
    expected = begins[1] + coming.refreshes * timedelta(days=60)
    assert dict(coming.dates)["at your pace so far"] == expected
    assert coming.until(timedelta(days=10_000_000)) is None


def test_before_a_run_without_a_limit_and_with_nothing_left(sites: Sites, lived: Spending) -> None:
    fresh = Accounts(Spending(sites.make("fresh")).site).read()
    assert (fresh.forecast, fresh.last, fresh.trusted) == (None, None, None)
    assert fresh.sent == []
    statement = read_statement(lived.site, lived.ledger)
    unlimited = forecast(replace(statement, limit=math.inf))
    assert unlimited is not None
    assert unlimited.refreshes is None
    assert [date for _, date in unlimited.dates] == [None] * len(unlimited.dates)
    nothing = forecast(replace(statement, limit=statement.spent))
    assert nothing is not None
    assert (nothing.refreshes, nothing.costs) == (0, ())
    tiny = replace(statement.runs[-1].releases[0], noise_multiplier=1000.0, steps=1)
    runs = (*statement.runs[:-1], replace(statement.runs[-1], releases=(tiny,)))
    many = forecast(replace(statement, runs=runs))
    assert many is not None
    assert (many.refreshes, many.at_least) == (MOST_REFRESHES, True)
