"""The ``b24sync`` command: one module per group of commands, and one place for each common thing.

``desk`` is what every command is handed; ``layout`` is how things are written for people and for
programs; ``app`` gathers the commands and turns errors into one line and an exit code.
"""

from b24sync.cli.app import main, run

__all__ = ["main", "run"]
