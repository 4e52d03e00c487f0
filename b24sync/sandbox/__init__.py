"""A Bitrix24 portal emulator over HTTP, for trying things out and for tests.

It imports nothing from the rest of the package, so that a misunderstanding of the portal cannot
hide in both.

    with Sandbox(SandboxConfig()) as sandbox:
        requests.post(sandbox.webhook_url + "batch", json={"cmd": {"c0": "crm.item.add?..."}})
        sandbox.records("contact")   # {1: {"id": 1, "name": "Ann", ...}}
        sandbox.journal()            # [ExecutedCommand(label="c0", method="crm.item.add", ...)]
        sandbox.add_fault("error", code="QUERY_LIMIT_EXCEEDED", times=2)
        sandbox.add_fault("reset", executed=True)   # the work is done, the answer is lost

`python -m b24sync.sandbox --port 8024` serves in the foreground; other processes look and steer
over HTTP under /sandbox/ (see the control module).
"""

from b24sync.sandbox.config import SandboxConfig
from b24sync.sandbox.faults import Fault, FaultAction, RequestView
from b24sync.sandbox.journal import ExecutedCommand, ReceivedRequest
from b24sync.sandbox.sandbox import Sandbox, serve
from b24sync.sandbox.values import Refusal

__all__ = [
    "ExecutedCommand",
    "Fault",
    "FaultAction",
    "ReceivedRequest",
    "Refusal",
    "RequestView",
    "Sandbox",
    "SandboxConfig",
    "serve",
]
