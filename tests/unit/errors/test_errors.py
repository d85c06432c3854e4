"""Every error survives the wire and says what to do."""

from __future__ import annotations

import pickle

import pytest

from sunloom import errors
from sunloom.errors import NotFoundError, SunloomError, nearest


def _subclasses(kind: type[SunloomError]) -> list[type[SunloomError]]:
    return [deep for sub in kind.__subclasses__() for deep in (sub, *_subclasses(sub))]


KINDS = [SunloomError, *_subclasses(SunloomError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_pickles_whole(kind: type[SunloomError]) -> None:
    error = kind("what happened", "what to do", "field")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.message, again.hint, again.param) == (error.message, error.hint, error.param)
    assert str(again) == str(error)


def test_extra_attributes_pickle_too() -> None:
    again = pickle.loads(pickle.dumps(NotFoundError("no model 'agnt'", known=["agent", "base"])))
    assert again.known == ["agent", "base"]


def test_codes_are_distinct() -> None:
    # A class without a code of its own has that of its base.
    codes = [kind.code for kind in KINDS if "code" in vars(kind)]
    assert len(set(codes)) == len(codes)


def test_the_tree_at_the_top_names_every_class() -> None:
    own = [kind.__name__ for kind in KINDS if kind.__module__ == errors.__name__]
    assert len(own) > 20
    assert [name for name in own if name not in (errors.__doc__ or "")] == []


def test_not_found_suggests_the_nearest_name() -> None:
    error = NotFoundError("no model 'agnt'", known=["agent", "base"], name="agnt")
    assert "Did you mean 'agent'?" in str(error)
    assert "base" in str(error)


def test_nearest_is_none_when_nothing_is_close() -> None:
    assert nearest("zzz", ["agent", "base"]) is None


def test_only_an_empty_list_of_names_says_that_there_are_none() -> None:
    assert NotFoundError("There is no a.", known=()).hint == "There are none yet."
    assert NotFoundError("There is no a.").hint == ""
