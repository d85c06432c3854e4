"""Kernels against brute force, on streams made to hurt."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sunloom.features.kernels.ranges import Ranges, RangeTree, key_bounds
from sunloom.features.kernels.sums_and_variances import range_sums, range_variances, sums_before
from sunloom.features.kernels.timeline import Timeline, stable_order
from sunloom.features.kernels.value_statistics import first_occurrences, range_distinct

W = 1_000
_times = st.integers(-3 * W, 3 * W)
_events = st.lists(st.tuples(st.integers(0, 3), _times, st.integers(-5, 5)), max_size=40)
_queries = st.lists(st.tuples(st.integers(-1, 4), _times), min_size=1, max_size=20)


def _window(events: list, key: int, now: int, width: int | None) -> list[int]:
    """Positions in the input of the rows of a key in ``(now - width, now]``, sorted by time."""
    inside = [
        (time, position)
        for position, (k, time, _) in enumerate(events)
        if k == key and time <= now and (width is None or time > now - width)
    ]
    return [position for _, position in sorted(inside)]


def _timeline(events: list) -> Timeline:
    keys = np.array([e[0] for e in events], dtype=np.int64)
    times = np.array([e[1] for e in events], dtype=np.int64)
    return Timeline(keys, times)


def _ranges(timeline: Timeline, queries: list, width: int | None) -> Ranges:
    keys = np.array([a[0] for a in queries], dtype=np.int64)
    now = np.array([a[1] for a in queries], dtype=np.int64)
    stop = timeline.search(keys, now, inclusive=True)
    start = timeline.first_of(keys)
    if width is not None:
        start = timeline.search(keys, now - width, inclusive=True)
    return Ranges(start, stop)


@given(_events, _queries, st.sampled_from([None, W, 1, 10**9]))
@settings(max_examples=300, deadline=None)
def test_ranges_hold_exactly_the_window(events: list, queries: list, width: int | None) -> None:
    timeline = _timeline(events)
    ranges = _ranges(timeline, queries, width)
    for row, (key, now) in enumerate(queries):
        found = timeline.order[ranges.start[row] : ranges.stop[row]].tolist()
        assert found == _window(events, key, now, width)


@given(_events, _queries, st.sampled_from([None, W]))
@settings(max_examples=100, deadline=None)
def test_bisection_equals_the_composite_key(events: list, queries: list, width: int | None) -> None:
    expected = _ranges(_timeline(events), queries, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sunloom.features.kernels.timeline._LARGEST", 0)
        timeline = _timeline(events)
    assert timeline._composite is None
    found = _ranges(timeline, queries, width)
    assert found.counts.tolist() == expected.counts.tolist()
    nonempty = expected.counts > 0
    assert found.start[nonempty].tolist() == expected.start[nonempty].tolist()


@given(
    st.lists(st.integers(0, 2**62), max_size=60),
    st.lists(st.integers(0, 3), max_size=60),
    st.integers(0, 62),
)
@settings(max_examples=300, deadline=None)
def test_the_order_is_stable_whatever_the_spread(
    wide: list[int], near: list[int], shift: int
) -> None:
    # Groups of near values far apart: leading bits alone cannot tell them from each other.
    values = np.array([*wide, *(n + (1 << shift) for n in near)], dtype=np.int64)
    order, ordered = stable_order(values)
    assert order.tolist() == np.argsort(values, kind="stable").tolist()
    assert ordered.tolist() == sorted(values.tolist())


@pytest.mark.parametrize("distinct", [1, 3, 40_000])
def test_bursts_of_near_times_are_ordered(distinct: int) -> None:
    random = np.random.default_rng(distinct)
    values = random.integers(0, 50, 40_000) * 2**52 + random.integers(0, distinct, 40_000)
    order, _ = stable_order(values)
    assert order.tolist() == np.argsort(values, kind="stable").tolist()


@given(_events, _queries, st.sampled_from([None, W]))
@settings(max_examples=100, deadline=None)
def test_sparse_key_codes_find_the_same(events: list, queries: list, width: int | None) -> None:
    far = 10**6
    expected = _ranges(_timeline(events), queries, width)
    sparse = _timeline([(key * far, *rest) for key, *rest in events])
    found = _ranges(sparse, [(key * far, time) for key, time in queries], width)
    assert found.counts.tolist() == expected.counts.tolist()
    assert sparse.keys.tolist() == [key * far for key in _timeline(events).keys]


@given(_queries, _events)
@settings(max_examples=100, deadline=None)
def test_queries_are_searched_in_ascending_order(queries: list, events: list) -> None:
    timeline = _timeline(events)
    keys = np.array([a[0] for a in queries], dtype=np.int64)
    now = np.array([a[1] for a in queries], dtype=np.int64)
    order = timeline.search_order(keys, now)
    if order is not None:
        assert sorted(order.tolist()) == list(range(len(queries)))
        keys, now = keys[order], now[order]
    stop = timeline.search(keys, now, inclusive=True)
    assert stop.tolist() == sorted(stop.tolist())


def test_keys_too_wide_for_one_number_fall_back() -> None:
    times = np.array([-(2**61), 2**61, 0], dtype=np.int64)
    keys = np.array([5, 5, 2**40], dtype=np.int64)
    timeline = Timeline(keys, times)
    assert timeline._composite is None
    assert timeline.order.tolist() == [0, 1, 2]
    stop = timeline.search(np.array([5, 5, 2**40]), np.array([0, 2**61, -1]), inclusive=True)
    assert stop.tolist() == [1, 2, 2]


_spikes = st.sampled_from([0.0, 1.0, -1.5, 1e17, -1e17, math.inf, -math.inf, math.nan, 1e-9])


@given(_events, st.lists(_spikes, min_size=40, max_size=40), _queries)
@settings(max_examples=300, deadline=None)
def test_float_sums_equal_brute_force(events: list, values: list[float], queries: list) -> None:
    timeline = _timeline(events)
    sorted_values = np.array(values[: len(events)])[timeline.order]
    ranges = _ranges(timeline, queries, W)
    sums = range_sums(sorted_values, timeline.keys, ranges)
    for row, total in enumerate(sums):
        inside = sorted_values[ranges.start[row] : ranges.stop[row]].tolist()
        _assert_sum(float(total), inside)


def _assert_sum(found: float, inside: list[float]) -> None:
    finite = all(math.isfinite(value) for value in inside)
    if not finite:
        with np.errstate(invalid="ignore"):
            expected = float(np.sum(inside))
        assert found == expected or (math.isnan(found) and math.isnan(expected))
        return
    size = math.fsum(map(abs, inside))
    assert abs(found - math.fsum(inside)) <= 1e-9 * abs(math.fsum(inside)) + 1e-14 * size


def test_one_keys_spike_leaves_every_other_key_exact() -> None:
    keys = np.array([0, 0, 1, 1, 2], dtype=np.int64)
    values = np.array([1e17, math.inf, 0.1, 0.2, 0.3])
    sums = range_sums(values, keys, Ranges(np.array([0, 2, 3, 4]), np.array([2, 4, 4, 5])))
    assert sums[0] == math.inf
    assert sums[1:].tolist() == pytest.approx([0.3, 0.2, 0.3], rel=1e-12)


def test_a_spike_before_the_window_leaves_the_window_exact() -> None:
    keys = np.zeros(3, dtype=np.int64)
    values = np.array([1e17, 1.25, 2.5])
    assert range_sums(values, keys, Ranges(np.array([1]), np.array([3]))).tolist() == [3.75]


def test_a_sum_that_overflows_before_the_window_leaves_the_window_exact() -> None:
    keys = np.zeros(4, dtype=np.int64)
    values = np.array([1.7e308, 1.5, 1.7e308, 2.5])
    found = range_sums(values, keys, Ranges(np.array([0, 1, 2, 3, 0]), np.array([1, 2, 4, 4, 4])))
    assert found.tolist() == [1.7e308, 1.5, 1.7e308, 2.5, math.inf]


@pytest.mark.parametrize("sizes", [[5_000, 1, 3, 0, 7], [1] * 3_000, [2_048, 2_049, 2_047]])
def test_running_sums_begin_anew_at_each_key_whatever_its_size(sizes: list[int]) -> None:
    keys = np.repeat(np.arange(len(sizes)), sizes)
    values = np.random.default_rng(1).integers(-50, 50, len(keys)).astype(np.float64)
    found = sums_before(values, key_bounds(keys))
    parts = [values[keys == key] for key in range(len(sizes))]
    expected = np.concatenate([np.cumsum(part) - part for part in parts])
    assert found.tolist() == expected.tolist()


def test_long_doubtful_ranges_are_summed_without_subtraction() -> None:
    random = np.random.default_rng(5)
    keys = np.repeat([0, 1], 3_000)
    values = random.normal(size=6_000)
    values[0] = 1e17
    starts = random.integers(1, 2_000, 50)
    ranges = Ranges(starts, starts + random.integers(1, 1_000, 50))
    found = range_sums(values, keys, ranges)
    exact = [math.fsum(values[a:b]) for a, b in zip(ranges.start, ranges.stop, strict=True)]
    assert found == pytest.approx(exact, rel=1e-9, abs=1e-11)


def test_whole_numbers_stay_exact_beyond_what_a_float_holds() -> None:
    values = np.array([2**62, 2**62 - 1, 1, 2**53 + 1], dtype=np.int64)
    keys = np.zeros(4, dtype=np.int64)
    sums = range_sums(values, keys, Ranges(np.array([0, 2, 3]), np.array([1, 4, 4])))
    assert sums.tolist() == [2**62, 2**53 + 2, 2**53 + 1]


@given(_events, _queries, st.sampled_from([None, W]))
@settings(max_examples=200, deadline=None)
def test_tree_distinct_and_variance(events: list, queries: list, width: int | None) -> None:
    timeline = _timeline(events)
    values = np.array([e[2] for e in events], dtype=np.int64)[timeline.order]
    ranges = _ranges(timeline, queries, width)
    tree = RangeTree(values, np.minimum, np.iinfo(np.int64).max)
    smallest = tree.fold(ranges.start, ranges.stop)
    distinct = range_distinct(values + 5, timeline.keys, ranges)
    variances = range_variances(values.astype(np.float64), ranges)
    for row in range(len(queries)):
        inside = values[ranges.start[row] : ranges.stop[row]]
        assert smallest[row] == (inside.min() if len(inside) else np.iinfo(np.int64).max)
        assert distinct[row] == len(set(inside.tolist()))
        if len(inside) > 1:
            assert variances[row] == pytest.approx(np.var(inside, ddof=1))
        else:
            assert math.isnan(variances[row])


def test_first_occurrences_count_per_key() -> None:
    keys = np.array([0, 0, 0, 1, 1], dtype=np.int64)
    codes = np.array([7, 7, 8, 7, 7], dtype=np.int64)
    assert first_occurrences(codes, keys).tolist() == [True, False, True, True, False]


def test_rows_without_a_key_are_never_found() -> None:
    timeline = Timeline(np.array([-1, 0]), np.array([5, 5]))
    assert timeline.order.tolist() == [1]
    assert timeline.search(np.array([-1]), np.array([9]), inclusive=True).tolist() == [0]


def test_empty_timeline() -> None:
    timeline = Timeline(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    assert timeline.search(np.array([0]), np.array([0]), inclusive=True).tolist() == [0]
    none = Ranges(np.array([0]), np.array([0]))
    assert range_sums(np.array([]), timeline.keys, none).tolist() == [0.0]
    nothing = Ranges(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert range_sums(np.array([1.5]), np.array([0]), nothing).tolist() == []
    assert pl.Series(none.counts).to_list() == [0]
