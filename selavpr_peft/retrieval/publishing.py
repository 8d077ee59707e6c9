"""Place databases on the Hugging Face Hub, as dataset repositories.

A push is one commit of the database's own files, so whoever fetches gets all of one database or all of another. What
an interrupted push has uploaded is not sent again.

A published table says nothing of the machine it was made on: paths of images that are addresses on the web stay, those
below a folder that is named become relative to it, and all others are dropped.
"""

import io
import re
import zlib
from pathlib import Path

import pyarrow as pa
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from pyarrow import parquet

from selavpr_peft.data.schema import IMAGE
from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.hub_access import HubAccess
from selavpr_peft.retrieval.building import ARRAYS
from selavpr_peft.retrieval.database_card import database_card
from selavpr_peft.retrieval.manifest import FIRST_INDEX, FIRST_PLACES, MANIFEST, Manifest, as_text
from selavpr_peft.retrieval.sharded_array import ShardedArray

CARD = "README.md"
INDEX_DESCRIPTION = "index.json"
OWN_FILES = (MANIFEST, FIRST_PLACES, FIRST_INDEX, INDEX_DESCRIPTION, *(f"{name}/*.npy" for name in ARRAYS))
KIND = "place database"
IS_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def push_database(
    folder: Path,
    manifest: Manifest,
    repo_id: str,
    *,
    image_root: Path | None,
    private: bool | None,
    revision: str | None,
    token: str | bool | None,
    commit_message: str,
) -> str:
    """Make a dataset repository hold a database and nothing else, in one commit.

    Args:
        folder: The database.
        manifest: Its manifest.
        repo_id: Repository, OWNER/NAME; made if it is not there.
        image_root: Folder that paths of images become relative to; None drops local ones.
        private: Whether a new repository is private; None leaves it to the account's settings.
        revision: Branch; made if it is not there. None for the main one.
        token: Token, or None for the one that was logged in with.
        commit_message: Message of the commit.

    Returns:
        Address of the commit.

    Raises:
        HubError: If the Hub cannot be reached or refuses; the message says what to do.
    """
    table = publishable_table(parquet.read_table(folder / manifest.places_file), image_root)
    places, index = _as_parquet(table), folder / manifest.index_file
    changed = {
        "places_crc32": f"{zlib.crc32(places):08x}",
        "places_file": FIRST_PLACES,
        "index_file": FIRST_INDEX,
    }
    manifest = manifest.model_copy(update=changed)
    arrays = [ShardedArray(folder / name, manifest.num_places) for name in ARRAYS]
    files = [path for array in arrays for path in array.files]
    content: dict[str, bytes | Path] = {path.relative_to(folder).as_posix(): path for path in files}
    content |= {
        MANIFEST: as_text(manifest).encode(),
        FIRST_PLACES: places,
        FIRST_INDEX: index,
        INDEX_DESCRIPTION: index.with_suffix(".json"),
        CARD: database_card(manifest, table, repo_id).encode(),
    }
    api, hub = HfApi(token=token), HubAccess(repo_id=repo_id, revision=revision, kind=KIND)
    hub.make_repository(api, private=private, repo_type="dataset")
    there = hub.ask(lambda: api.list_repo_files(repo_id, repo_type="dataset", revision=revision))
    stale = [name for name in there if name not in content and name != ".gitattributes"]
    commit = hub.ask(
        lambda: api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, source) for name, source in content.items()),
                *(CommitOperationDelete(name) for name in stale),  # of a larger database before this one
            ],
            repo_type="dataset",
            revision=revision,
            commit_message=commit_message,
        )
    )
    return str(commit.commit_url)


def fetch_database(
    repo_id: str,
    *,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> Path:
    """Fetch a database into the cache of the Hub.

    Args:
        repo_id: Dataset repository, OWNER/NAME.
        revision: Branch, tag or commit.
        token: Token, or None for the one that was logged in with.
        cache_dir: Cache; None for the usual one.
        local_files_only: Look into the cache only.

    Returns:
        Its folder in the cache.

    Raises:
        PlaceDatabaseError: If the name cannot be one of the Hub.
        HubError: If the Hub cannot be reached or refuses; the message says what to do.
    """
    if repo_id.count("/") != 1:
        raise PlaceDatabaseError(f"{repo_id} is no place database: neither a folder nor a Hub id, OWNER/NAME.")
    return Path(
        HubAccess(repo_id=repo_id, revision=revision, kind=KIND).ask(
            lambda: snapshot_download(
                repo_id,
                repo_type="dataset",
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=list(OWN_FILES),
            )
        )
    )


def publishable_table(places: pa.Table, image_root: Path | None) -> pa.Table:
    """Give a table of places whose images are addresses on the web, paths relative to a folder, or nothing.

    Args:
        places: Table with a column `image` of paths.
        image_root: Folder that paths become relative to; those elsewhere are dropped.
    """
    images = [_publishable_path(path, image_root) for path in places[IMAGE].to_pylist()]
    column = places.column_names.index(IMAGE)
    return places.set_column(column, IMAGE, pa.array(images, pa.string()))


def _publishable_path(path: str | None, image_root: Path | None) -> str | None:
    if path is None or IS_ADDRESS.match(path):
        return path
    if image_root is None:
        return None
    absolute, root = Path(path).resolve(), image_root.resolve()
    return absolute.relative_to(root).as_posix() if absolute.is_relative_to(root) else None


def _as_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()
