"""The shortest way to talk to a sandbox: a client that posts JSON to its webhook."""

import threading
import time
from collections.abc import Callable
from typing import Any

import requests

from b24sync.sandbox import Sandbox


class Asker:
    """Posts JSON and hands back what came; keeps one connection."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self.session = requests.Session()

    def __call__(self, sandbox: Sandbox, method: str, params: object = None) -> requests.Response:
        """Call one method."""
        return self.session.post(sandbox.webhook_url + method, json=params or {}, timeout=20)

    def result(self, sandbox: Sandbox, method: str, params: object = None) -> Any:  # noqa: ANN401 - JSON of any shape
        """Call one method that succeeds; its result."""
        response = self(sandbox, method, params)
        assert response.status_code == 200, response.text
        return response.json()["result"]

    def refusal(self, sandbox: Sandbox, method: str, params: object = None) -> tuple[Any, str]:
        """Call one method that is refused; code and text."""
        answer = self(sandbox, method, params).json()
        return answer["error"], answer["error_description"]

    def batch(self, sandbox: Sandbox, cmd: object, *, halt: object = 0) -> Any:  # noqa: ANN401 - JSON of any shape
        """Call batch; its sections."""
        return self.result(sandbox, "batch", {"halt": halt, "cmd": cmd})


def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait until a condition holds. Raises: AssertionError if it never does."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)
