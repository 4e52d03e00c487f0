"""Errors carry facts, as text for people and as fields for programs."""

import pickle

import pytest

from b24sync.core.errors import (
    B24SyncError,
    BackfillError,
    CaptureError,
    ChangeError,
    DatabaseError,
    NeverSent,
    PlanError,
    SettingsError,
)


@pytest.mark.parametrize(
    "error",
    [
        SettingsError("halt", "is none of those"),
        ChangeError("fields.a", "is bytes", entity="contact:c-1", position=7),
        CaptureError("Customer", "has no key"),
        BackfillError("the key holds NULL"),
        PlanError("no_link", "key", "is not known"),
        DatabaseError("cannot be reached"),
        NeverSent("NewConnectionError", 0.5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_out_of_another_process_as_it_went_in(error: B24SyncError) -> None:
    """A pool's child hands its errors to its parent, which shows them."""
    travelled = pickle.loads(pickle.dumps(error))  # noqa: S301 - what was just written

    assert type(travelled) is type(error)
    assert str(travelled) == str(error)
    assert vars(travelled) == vars(error)
