import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.data.histories import Histories

few = settings(max_examples=25, deadline=None)
lists = st.lists(st.lists(st.integers(1, 5), max_size=6), max_size=6)


def test_a_history_is_a_slice_of_one_array() -> None:
    histories = Histories.from_lists([[3, 1], [], [2]], users=["x", "y", "z"])
    assert (len(histories), histories.events) == (3, 3)
    assert histories.users == ("x", "y", "z")
    assert histories.lengths.tolist() == [2, 0, 1]
    assert histories.items.dtype == histories.offsets.dtype == np.int64
    assert [history.tolist() for history in histories] == [[3, 1], [], [2]]


@pytest.mark.parametrize("row", [-1, 3])
def test_a_row_outside_is_an_index_error(row: int) -> None:
    with pytest.raises(IndexError):
        Histories.from_lists([[1], [2], [3]])[row]


@pytest.mark.parametrize(
    ("users", "items", "offsets"),
    [
        (("x",), [1, 2], [0, 1]),
        (("x",), [1, 2], [1, 2]),
        (("x",), [1, 2], [0, 1, 2]),
        (("x", "y"), [1, 2], [0, 3, 2]),
        (("x",), [1, 0], [0, 2]),
    ],
)
def test_fields_that_contradict_each_other_are_refused(
    users: tuple[str, ...], items: list[int], offsets: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"offsets|ids"):
        Histories(users, np.array(items), np.array(offsets))


@few
@given(lists, st.data())
def test_slices_agree_with_lists(histories: list[list[int]], data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 7))
    some = Histories.from_lists(histories)
    assert [h.tolist() for h in some.last(n)] == [h[max(len(h) - n, 0) :] for h in histories]
    assert [h.tolist() for h in some.without_last(n)] == [
        h[: max(len(h) - n, 0)] for h in histories
    ]
    rows = data.draw(st.lists(st.sampled_from(range(len(histories))))) if histories else []
    assert [h.tolist() for h in some.select(rows)] == [histories[row] for row in rows]
    assert some.select(rows).users == tuple(str(row) for row in rows)
    padded = some.padded(rows, n)
    assert padded.tolist() == [
        (kept := histories[row][max(len(histories[row]) - n, 0) :]) + [0] * (n - len(kept))
        for row in rows
    ]
    assert tuple(padded.shape) == (len(rows), n)
    assert str(padded.dtype) == "torch.int64"
