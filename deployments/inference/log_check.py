"""May something be recorded beside the writer? Whoever adds to the log asks what the writer asked.

An entry in a log that does not fit its anchors would understate what is missing, or make a forged
log longer.
"""

import asyncio

from configs.settings import Settings
from registry.errors import AuditUnavailable, InvalidConfiguration, Violation
from storage.anchors import AnchorFile, startup_check
from storage.database import Database
from storage.signing_keys import load_keys


async def check_log(settings: Settings, database: Database) -> None:
    """See that the log continues its anchors, at the cost of the entries after the last one.

    Args:
        settings: Where the anchors and the log's key are.
        database: Where the log is.

    Raises:
        AuditUnavailable: Nothing may be recorded: see `startup_check`; or there are anchors, and
            the key that they are signed with cannot be read.
        DatabaseUnavailable: The database is away.
    """
    anchors = AnchorFile(settings.anchor_file)
    anchored = await asyncio.to_thread(anchors.last) is not None
    await startup_check(database, anchors, _log_key(settings) if anchored else None)


def _log_key(settings: Settings) -> bytes:
    """The public half of the key that signs the log: without it an anchor could be anybody's."""
    try:
        key = load_keys(settings.log_key_dir, generate=False).private
    except InvalidConfiguration as error:
        found = error.violations[0].measured
        reason = f"{error.detail}, {found}" if found else error.detail
    except OSError as error:
        reason = error.strerror or "it cannot be read"
    else:
        return key.public_key().public_bytes_raw()
    raise AuditUnavailable(
        f"nothing is recorded without the key that signs the audit log: {reason}",
        (
            Violation(
                "MEDAI_AUDIT__KEY_DIR",
                advice="give the command as the service's account, with its settings",
            ),
        ),
    )
