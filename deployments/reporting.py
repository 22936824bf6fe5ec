"""How a command ends: an error of ours is a line on standard error, and an exit code."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from registry.errors import Failed, InvalidConfiguration, MedAIError

EXIT_REFUSED = 1
EXIT_INTERRUPTED = 130


def lines(error: MedAIError) -> list[str]:
    """An error in one line; of a configuration with several faults, each in a line of its own."""
    if not isinstance(error, InvalidConfiguration) or not error.violations:
        return [str(error)]
    return [f"{error.detail or error.title}: {fault}" for fault in error.violations]


@contextmanager
def reported() -> Iterator[None]:
    """Run what is inside; leave the process with a line and a code where it fails."""
    try:
        yield
    except MedAIError as error:
        style = "red" if isinstance(error, Failed) else "yellow"
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        for line in lines(error):
            console.print(f"medai: {line}", style=style)
        sys.exit(EXIT_REFUSED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone (`medai ... | head`); do not complain while closing standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_REFUSED)
