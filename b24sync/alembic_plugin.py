"""Keeps a host application's Alembic from dropping tables that its models do not know.

``alembic revision --autogenerate`` writes a ``drop_table`` for every table that is in the database
and not in the host's metadata, ours among them. Alembic from 1.18 on finds this module by its entry
point and forgets those drops; for an older one a host passes ``include_object`` to
``context.configure``. Alembic imports this module while it is itself being imported, so nothing of
Alembic is imported here before it is needed.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.operations.ops import UpgradeOps
    from alembic.runtime.plugins import Plugin
    from alembic.util import PriorityDispatchResult

PREFIX = "b24sync_"


def setup(plugin: "Plugin") -> None:
    """Ask to be heard last, when every other comparison has been made.

    Raises: nothing.
    """
    from alembic.util import DispatchPriority  # noqa: PLC0415 - see the module's docstring

    plugin.add_autogenerate_comparator(
        _forget_drops, "autogenerate", priority=DispatchPriority.LAST
    )


def include_object(
    _item: object,
    name: str | None,
    kind: str,
    reflected: bool,  # noqa: FBT001 - Alembic calls it by position
    compare_to: object,
) -> bool:
    """Whether autogenerate may look at a thing: at all but our tables that the host has no model of.

    Raises: nothing.
    """
    ours = kind == "table" and (name or "").startswith(PREFIX)
    return not (ours and reflected and compare_to is None)


def _forget_drops(_context: object, upgrade: "UpgradeOps") -> "PriorityDispatchResult":
    """Remove the drops of our tables, and those of their indexes that come along."""
    from alembic.operations.ops import (  # noqa: PLC0415 - see the module's docstring
        DropTableOp,
        ModifyTableOps,
    )
    from alembic.util import PriorityDispatchResult  # noqa: PLC0415 - see the module's docstring

    dropped = {
        (step.schema, step.table_name)
        for step in upgrade.ops
        if isinstance(step, DropTableOp) and step.table_name.startswith(PREFIX)
    }
    upgrade.ops[:] = [
        step
        for step in upgrade.ops
        if not isinstance(step, DropTableOp | ModifyTableOps)
        or (step.schema, step.table_name) not in dropped
    ]
    return PriorityDispatchResult.CONTINUE
