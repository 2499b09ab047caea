"""Where the console script begins: Ctrl-C ends it quietly while the command line is still being imported.

What comes before, Python's own start, is out of reach.
Imports only ``sys`` itself, since all that is imported before ``run`` is not covered. Knows no command.
"""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""What a shell reports for a command that Ctrl-C has ended."""


def run() -> None:
    """The command ``fleet``; ends the process."""
    try:
        from fleet.cli.main import main
    except KeyboardInterrupt:
        # The line of ``FleetGroup``, whose module may be what was interrupted.
        sys.stderr.write("Error: interrupted\n")
        sys.exit(INTERRUPTED)
    main()
