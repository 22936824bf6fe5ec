"""How a command ends: an error of ours is one line on standard error, and an exit code."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from registry.errors import Failed, MedAIError

EXIT_REFUSED = 1
EXIT_INTERRUPTED = 130


@contextmanager
def reported() -> Iterator[None]:
    """Run what is inside; leave the process with a line and a code where it fails."""
    try:
        yield
    except MedAIError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"medai: {error}", style="red" if isinstance(error, Failed) else "yellow"
        )
        sys.exit(EXIT_REFUSED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone (`medai ... | head`); do not complain while closing standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_REFUSED)
