"""A place database that others may change while it is served.

Only the model's thread touches the database itself. What every other thread reads is a catalogue, which never changes
and is replaced as a whole; so a request that is in progress goes on with what it began with.
"""

import logging

from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.retrieval import PlaceDatabase
from selavpr_peft.retrieval.manifest import MANIFEST
from selavpr_peft.serving.catalogue import PlaceCatalogue

logger = logging.getLogger(__name__)

NEVER = (0, 0, 0)
"""What no file's stamp is."""


class ServedDatabase:
    """A database and what may be told of it now.

    Args:
        database: An open database.

    Attributes:
        catalogue: Its places as they were seen last.
    """

    def __init__(self, database: PlaceDatabase) -> None:
        """Look at the database as it was opened; the first request sees what changed since."""
        self._database = database
        self._seen: tuple[int, int, int] | None = NEVER
        self.catalogue = PlaceCatalogue(database)

    @property
    def has_changed(self) -> bool:
        """Whether the manifest on the disk is another file than the one that was read."""
        return self._stamp() != self._seen

    def refresh(self) -> None:
        """See what others have added or removed; only the model's thread may do it.

        A database that cannot be read is served as it was, and looked at again when its manifest changes once more.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        before = self._database.manifest
        try:
            self._database.refresh()
        except (PlaceDatabaseError, OSError) as error:
            logger.error("The database has changed and is served as it was: %s", error)
            return
        if self._database.manifest != before:
            self.catalogue = PlaceCatalogue(self._database)
            logger.info("The database has changed and has %d places now.", self.catalogue.num_places)

    def _stamp(self) -> tuple[int, int, int] | None:
        """Tell versions of the manifest apart: it is always replaced by a new file, never written into."""
        try:
            status = (self._database.folder / MANIFEST).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
