"""The nouns are values: frozen, slotted, equal by what they hold, closed where they are closed."""

import dataclasses
import importlib
import pkgutil
from enum import StrEnum
from types import ModuleType
from typing import Any

import pytest

from b24sync import core
from b24sync.core import model
from b24sync.core.model import (
    FINAL_OUTCOMES,
    BatchState,
    Change,
    Command,
    FaultKind,
    HaltMode,
    LinkState,
    Operation,
    PortalState,
    Ref,
    ResultOutcome,
    RowState,
)

MODULES = [
    importlib.import_module(f"b24sync.core.{found.name}")
    for found in pkgutil.iter_modules(core.__path__)
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_noun_is_frozen_and_slotted(module: ModuleType) -> None:
    """What one stage hands to the next, no other can change or add to."""
    loose = [
        name
        for name, noun in vars(module).items()
        if isinstance(noun, type)
        and dataclasses.is_dataclass(noun)
        and not name.startswith("_")
        and not ("__slots__" in vars(noun) and _is_frozen(noun))
    ]

    assert loose == []


def test_the_nouns_are_found() -> None:
    """Or the law above would look at nothing."""
    assert sum(map(dataclasses.is_dataclass, vars(model).values())) > 20


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


def test_a_row_ends_in_one_of_seven_ways() -> None:
    """What was tried again, spared, begun or stopped goes on, and so does what is not known."""
    on_the_way = set(ResultOutcome) - FINAL_OUTCOMES

    assert {str(outcome) for outcome in FINAL_OUTCOMES} == {
        "applied",
        "merged",
        "failed",
        "expired",
        "cancelled",
        "unchanged",
        "different",
    }
    assert {str(outcome) for outcome in on_the_way} == {
        "retried",
        "skipped",
        "unknown",
        "begun",
        "stopped",
    }


def command(**said: Any) -> Command:  # noqa: ANN401 - whatever a command may be made of
    """Make a command of rows 7 and 9."""
    return Command(
        row_ids=(7, 9),
        kind="contact",
        key="c-1",
        operation=Operation.UPDATE,
        method="crm.item.update",
        query="",
        **said,
    )


def test_a_command_has_the_label_of_its_first_row() -> None:
    """A letter first, so that it is never a number to PHP, whichever row leads."""
    assert command().label == command(lead=9).label == "r7"


@pytest.mark.parametrize(("lead", "leads"), [(None, 7), (7, 7), (9, 9), (0, 0)])
def test_a_command_is_led_by_its_first_row_or_by_the_one_named(
    lead: int | None, leads: int
) -> None:
    """The result of that row is the command's own."""
    assert command(lead=lead).leads == leads


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
        pytest.param(LinkState, 16, id="link state"),
    ],
)
def test_every_word_fits_its_column(words: type[StrEnum], width: int) -> None:
    """Stored words are lower-case ASCII and no longer than their column."""
    unfit = [
        word for word in words if len(word) > width or not word.isascii() or word != word.lower()
    ]

    assert unfit == []
