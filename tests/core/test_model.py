"""The nouns are values: frozen, slotted, equal by what they hold, closed where they are closed."""

import dataclasses
from enum import StrEnum

import pytest

from b24sync.core import model
from b24sync.core.model import (
    FINAL_OUTCOMES,
    BatchState,
    Change,
    FaultKind,
    HaltMode,
    Operation,
    PortalState,
    Ref,
    ResultOutcome,
    RowState,
)

VALUES = [value for value in vars(model).values() if dataclasses.is_dataclass(value)]


def test_every_noun_is_frozen_and_slotted() -> None:
    """What one stage hands to the next, no other can change or add to."""
    loose = [
        noun
        for noun in VALUES
        if not (isinstance(noun, type) and "__slots__" in vars(noun) and _is_frozen(noun))
    ]

    assert loose == []
    assert len(VALUES) > 20


def _is_frozen(noun: type) -> bool:
    return "__setattr__" in vars(noun)


def test_a_change_cannot_be_changed() -> None:
    """An assignment is an error, not a silent edit."""
    change = Change("contact", "c-1", "add")

    with pytest.raises(dataclasses.FrozenInstanceError):
        change.key = "c-2"  # type: ignore[misc]  # what is tested


def test_changes_share_no_default() -> None:
    """Two changes without fields do not hold the same empty mapping."""
    first, second = Change("contact", "c-1", "add"), Change("contact", "c-2", "add")

    assert first.fields == second.fields == {}
    assert first.fields is not second.fields


def test_a_reference_is_equal_by_kind_and_key() -> None:
    """References can be counted, compared and looked up."""
    known = {Ref("company", "acme"): "7"}

    assert known[Ref("company", "acme")] == "7"
    assert Ref("company", "acme") != Ref("contact", "acme")


def test_a_row_ends_in_one_of_five_ways() -> None:
    """Retried, skipped and unknown are records on the way, not ends."""
    on_the_way = set(ResultOutcome) - FINAL_OUTCOMES

    assert {str(outcome) for outcome in FINAL_OUTCOMES} == {
        "applied",
        "merged",
        "failed",
        "expired",
        "cancelled",
    }
    assert {str(outcome) for outcome in on_the_way} == {"retried", "skipped", "unknown"}


@pytest.mark.parametrize(
    ("words", "width"),
    [
        pytest.param(Operation, 8, id="operation"),
        pytest.param(RowState, 8, id="row state"),
        pytest.param(BatchState, 16, id="batch state"),
        pytest.param(PortalState, 16, id="portal state"),
        pytest.param(ResultOutcome, 16, id="outcome"),
        pytest.param(FaultKind, 32, id="fault"),
        pytest.param(HaltMode, 16, id="halt"),
    ],
)
def test_every_word_fits_its_column(words: type[StrEnum], width: int) -> None:
    """Stored words are lower-case ASCII and no longer than their column."""
    unfit = [
        word for word in words if len(word) > width or not word.isascii() or word != word.lower()
    ]

    assert unfit == []
