"""A host application of a few lines, whose configuration is in its environment."""

import json
import os
from pathlib import Path

from celery import Celery

from b24sync.plugin import install

app = Celery("shop")
app.conf.update(json.loads(os.environ["SHOP_CONFIG"]))
install(app)


@app.task(name="shop.note")
def note(line: str) -> None:
    """Append a line to the record of what ran."""
    with Path("ran.log").open("a", encoding="utf-8") as record:
        record.write(f"{line}\n")
