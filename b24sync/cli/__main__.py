"""``python -m b24sync.cli`` is the ``b24sync`` command."""

from b24sync.cli import main

if __name__ == "__main__":
    main()
