"""`python -m b24sync.sandbox`: a portal in the foreground."""

import argparse

from b24sync.sandbox.config import SandboxConfig
from b24sync.sandbox.sandbox import serve


def main() -> None:
    """Read the command line and serve. Raises: OSError if the address is taken."""
    usual = SandboxConfig()
    parser = argparse.ArgumentParser(prog="python -m b24sync.sandbox", description=__doc__)
    parser.add_argument("--host", default=usual.host, help="address to listen on")
    parser.add_argument("--port", type=int, default=8024, help="port to listen on; 0: a free one")
    parser.add_argument("--tls", action="store_true", help="serve https, self-signed")
    parser.add_argument("--code", default=usual.code, help="secret of the webhook")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds per request")
    parser.add_argument("--command-latency", type=float, default=0.0, help="seconds per command")
    parser.add_argument("--bucket", type=float, default=None, help="request threshold, such as 50")
    parser.add_argument("--leak", type=float, default=None, help="requests leaking per second")
    parser.add_argument("--strict-fields", action="store_true", help="drop unknown fields")
    parser.add_argument("--journal", default=None, help="NDJSON file to append to")
    given = parser.parse_args()
    serve(
        SandboxConfig(
            host=given.host,
            port=given.port,
            tls=given.tls,
            code=given.code,
            latency_s=given.latency,
            command_latency_s=given.command_latency,
            bucket_x=given.bucket,
            bucket_y=given.leak,
            strict_fields=given.strict_fields,
            journal_path=given.journal,
        )
    )


if __name__ == "__main__":
    main()
