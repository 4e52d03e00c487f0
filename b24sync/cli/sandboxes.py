"""``b24sync sandbox``: an emulator of a portal, in the foreground."""

from pathlib import Path

import click
from rich.text import Text

from b24sync.cli.desk import Desk, Refused, as_json, epilog
from b24sync.cli.interrupts import until_interrupted
from b24sync.sandbox import Sandbox, SandboxConfig

USUAL_PORT = 8024


@click.command(
    short_help="Run an emulated portal on this machine.",
    epilog=epilog(
        "b24sync sandbox",
        "b24sync sandbox --port 0 --latency 0.2 --bucket 50 --journal calls.ndjson",
        exits="0  ended by Ctrl-C or SIGTERM; 2  the port is taken, or the file cannot be written",
    ),
)
@click.option("--port", type=click.IntRange(0, 65535), default=USUAL_PORT, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--tls", is_flag=True, help="Serve https with a certificate of its own.")
@click.option("--latency", type=click.FloatRange(0), default=0.0, help="Seconds per request.")
@click.option(
    "--command-latency", type=click.FloatRange(0), default=0.0, help="Seconds per command."
)
@click.option("--bucket", type=float, help="Requests at once before it refuses, such as 50.")
@click.option("--leak", type=float, help="Requests per second, with --bucket.  [default: 2]")
@click.option("--strict-fields", is_flag=True, help="Drop unknown fields silently, as portals do.")
@click.option("--journal", type=click.Path(path_type=Path), help="Append what it executes, NDJSON.")
@as_json
@click.pass_obj
def sandbox(  # noqa: PLR0913 - one parameter for each option
    desk: Desk,
    *,
    port: int,
    host: str,
    tls: bool,
    latency: float,
    command_latency: float,
    bucket: float | None,
    leak: float | None,
    strict_fields: bool,
    journal: Path | None,
    as_json: bool,
) -> None:
    """Run a portal on this machine, to try things out without one; its data ends with it.

    It speaks the portal's protocol over HTTP. Faults are armed and records read under /sandbox/.
    """
    config = SandboxConfig(
        host=host,
        port=port,
        tls=tls,
        latency_s=latency,
        command_latency_s=command_latency,
        bucket_x=bucket,
        bucket_y=leak,
        strict_fields=strict_fields,
        journal_path=journal,
    )
    try:
        running = Sandbox(config).start()
    except OSError as error:
        problem = f"cannot serve on {host}:{port}: {error.strerror or error}"
        raise Refused(f"{problem}; --port 0 takes a free port") from None
    with until_interrupted() as stopped:
        try:
            _tell(desk, running, as_json=as_json)
            stopped.wait()
        finally:
            running.stop()


def _tell(desk: Desk, running: Sandbox, *, as_json: bool) -> None:
    """Where it is, and how to use it."""
    trusted = str(running.ca_path) if running.ca_path is not None else None
    if as_json:
        desk.emit({"webhook_url": running.webhook_url, "ca_bundle": trusted})
        return
    click.echo(running.webhook_url)
    desk.note("\nIn another terminal:")
    desk.note(f"  export B24SYNC_WEBHOOK_URL={running.webhook_url}")
    if trusted is not None:
        desk.note(f"  export B24SYNC_CA_BUNDLE={trusted}")
    desk.note("  b24sync db upgrade && b24sync portal check && b24sync status")
    desk.note(f"What it holds: {running.url}/sandbox/stats, …/journal, …/records/contact")
    desk.err.print(Text("Ctrl-C ends it.", "dim"))
