"""What a portal holds, as the expectations made from the files say it."""

import json
from typing import cast

from tests.whole.files import Fields
from tests.whole.stage import Found, Stage

SYSTEM_FIELDS = {"id", "createdTime", "updatedTime", "createdBy", "updatedBy"}


def held(stage: Stage) -> dict[str, Fields]:
    """The portal's companies by their marker, without what the portal says of its own accord."""
    records = stage.portal("records/company").values()
    shown = {
        record["originId"]: {n: v for n, v in record.items() if n not in SYSTEM_FIELDS}
        for record in records
    }
    assert len(shown) == len(records), "two records carry the same marker"
    return shown


def plan_of(batch: Found) -> dict[str, Found]:
    """The plan of a batch's row; plain SQL gives it as text on some databases."""
    plan = batch["plan"]
    return cast("dict[str, Found]", json.loads(plan) if isinstance(plan, str) else plan)
