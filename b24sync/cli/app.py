"""The command with all its groups, and what an error becomes: one line and an exit code.

=====  ==========================================================================================
Code   Means
=====  ==========================================================================================
0      done
1      some changes failed, or a check found something
2      wrong usage or settings; nothing was done
3      the database or the broker cannot be reached, or its tables are missing or of another version
=====  ==========================================================================================
"""

import sys
from collections.abc import Callable, Sequence

import click
from rich.console import Console
from rich.text import Text

from b24sync.cli import (
    apps,
    auditing,
    backfill,
    databases,
    dead,
    demo,
    duplicates,
    explain,
    held,
    links,
    load,
    portals,
    pruning,
    replays,
    results,
    rotating,
    sandboxes,
    status,
    sync,
)
from b24sync.cli.desk import FAILED, UNREACHABLE, WRONG, Desk
from b24sync.core.errors import B24SyncError, DatabaseError
from b24sync.settings import Settings, standalone
from b24sync.version import VERSION

EPILOG = """\b
Exit codes
  0  done
  1  some changes failed, or a check found something
  2  wrong usage or settings; nothing was done
  3  the database or the broker cannot be used: unreachable, or not migrated

\b
A first round
  b24sync demo                 everything embedded, to see it work
  b24sync db upgrade           make the tables
  b24sync portal add default   asks for the webhook, stores it encrypted
  b24sync load changes.ndjson  changes into the outbox
  b24sync sync                 send them from this process

Settings come from the environment: B24SYNC_DATABASE_URL, B24SYNC_WEBHOOK_URL, B24SYNC_SECRET_KEY and
others; the README lists them."""


@click.group(
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, prog_name="b24sync")
def b24sync() -> None:
    """Keep Bitrix24 portals in step with your database.

    Changes stand in an outbox table, written in your own transactions. Workers, or `b24sync sync`,
    send them in batches and write one result for each. These commands look at that and steer it.
    """


for _command in (
    demo.demo,
    databases.db,
    portals.portal,
    apps.app,
    load.load,
    backfill.backfill,
    sync.sync,
    status.status,
    results.results,
    explain.explain,
    links.links,
    held.held,
    dead.dead,
    replays.replay,
    replays.drop,
    duplicates.duplicates,
    auditing.audit,
    pruning.prune,
    sandboxes.sandbox,
):
    b24sync.add_command(_command)
portals.portal.add_command(rotating.rotate_keys)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str], find_settings: Callable[[], Settings] = standalone) -> int:
    """Run one command; the exit code.

    Settings are looked for when a command first asks for them, so that help and keys need none.
    Raises: nothing that was foreseen; a bug is a traceback.
    """
    err = Console(stderr=True, highlight=False)
    try:
        code = b24sync.main(
            args=list(args),
            prog_name="b24sync",
            standalone_mode=False,
            obj=Desk.at_terminal(find_settings, err),
        )
    except click.exceptions.NoArgsIsHelpError as error:
        # Asked for nothing: what there is to ask for, as a person reads it.
        click.echo(error.format_message(), err=True)
        return WRONG
    except (click.Abort, click.ClickException, B24SyncError, KeyboardInterrupt) as error:
        message, code = _explained(error)
        err.print(Text("error: ", "bold red").append(message, "default"), soft_wrap=True)
        return code
    return code if isinstance(code, int) else 0


def _explained(error: BaseException) -> tuple[str, int]:
    """What an error says in one line, and its exit code."""
    match error:
        case click.UsageError(ctx=ctx):
            hint = f" (see `{ctx.command_path} --help`)" if ctx is not None else ""
            message, code = error.format_message() + hint, WRONG
        case click.ClickException():
            message, code = error.format_message(), error.exit_code
        case DatabaseError():
            message, code = str(error), UNREACHABLE
        case B24SyncError():
            message, code = str(error), WRONG
        case _:
            message, code = "interrupted; what was not committed was not done", FAILED
    return " ".join(message.split()), code
