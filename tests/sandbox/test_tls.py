"""The sandbox over TLS."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from b24sync.sandbox import Sandbox, SandboxConfig


def test_a_client_that_trusts_the_certificate_is_served() -> None:
    """By address and by name; the certificate is gone afterwards."""
    with Sandbox(SandboxConfig(tls=True)) as sandbox:
        ca_path = sandbox.ca_path
        assert ca_path is not None
        by_name = sandbox.webhook_url.replace("127.0.0.1", "localhost")

        answers = [
            requests.get(url + "profile", verify=str(ca_path), timeout=20)
            for url in (sandbox.webhook_url, by_name)
        ]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert not ca_path.exists()


def test_a_client_that_does_not_trust_it_is_not() -> None:
    """The handshake fails and later clients are served all the same."""
    with Sandbox(SandboxConfig(tls=True)) as sandbox:
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(sandbox.webhook_url + "profile", timeout=20)

        answer = requests.get(
            sandbox.webhook_url + "profile", verify=str(sandbox.ca_path), timeout=20
        )

        assert answer.status_code == 200


def test_a_connection_over_tls_can_be_reset() -> None:
    """Faults reach below TLS."""
    with Sandbox(SandboxConfig(tls=True)) as sandbox:
        sandbox.add_fault("reset", executed=True)

        with pytest.raises(requests.ConnectionError):
            requests.get(sandbox.webhook_url + "profile", verify=str(sandbox.ca_path), timeout=20)

        assert len(sandbox.journal()) == 1


def test_without_tls_there_is_no_certificate(tmp_path: Path) -> None:
    """Plain http needs none."""
    with Sandbox(SandboxConfig(journal_path=tmp_path / "j")) as sandbox:
        assert sandbox.ca_path is None
        assert sandbox.url.startswith("http://")


def test_a_client_that_never_shakes_hands_does_not_hold_the_end_up() -> None:
    """A silent connection ends with the sandbox."""
    sandbox = Sandbox(SandboxConfig(tls=True)).start()
    target = urlsplit(sandbox.url)
    with socket.create_connection((target.hostname or "", target.port or 0), timeout=20) as client:
        answer = requests.get(
            sandbox.webhook_url + "profile", verify=str(sandbox.ca_path), timeout=20
        )

        sandbox.stop()

        assert answer.status_code == 200
        assert client.recv(1) == b""
