"""Write files so that a failure at any moment leaves either the old content or the new one, never half of it."""

import errno
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ROOM_BYTES = 1 << 20
"""A disk with less room than this is taken for full when something could not be written."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, bring it to the disk and rename it to `path`.

    Args:
        path: Final name; missing parent folders are made. A pipe or a device such as /dev/null is written to directly.
        write: Receives the temporary path and writes the whole file there. When it raises, `path` keeps its old
            content and the temporary file is removed.

    Raises:
        IsADirectoryError: If `path` is a folder, or a link to one.
        OSError: If it cannot be written, for example because the disk is full.
    """
    path = Path(path)
    _refuse_folder(path)
    if _is_pipe_or_device(path):  # a rename would put a file in its place
        write(path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _make_temporary(path, path.parent)
    try:
        with naming_full_disk(path.parent):
            write(temporary)
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files only their owner can read
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8, all of it or nothing.

    Args:
        path: Final name.
        text: What to write.
    """

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def check_writable(path: Path) -> None:
    """Raise before long work if `write_atomically` could not write its result; nothing is made or changed.

    Args:
        path: Final name of a file, or of a new folder; folders above it may be missing.

    Raises:
        IsADirectoryError: If it is a folder, or a link to one.
        OSError: If no file can be made there, for example because a folder above it is a file or not the user's.
    """
    path = Path(path)
    _refuse_folder(path)
    if path.exists() and _is_pipe_or_device(path):
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{path} is not open for writing; name a file.")
        return
    folder = next(folder for folder in path.parents if folder.exists() or folder.is_symlink())
    try:  # permission bits are not all there is: what the user root or a mounted disk may do, only a try tells
        _make_temporary(path, folder).unlink()
    except OSError as error:
        raise OSError(
            f"{path} cannot be written, because {folder} takes no such file ({error.strerror}); write it elsewhere."
        ) from error


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Call a full disk by its name: NumPy, faiss, safetensors and PyTorch each raise something of their own.

    Args:
        folder: Where the block writes.

    Yields:
        Nothing.

    Raises:
        OSError: ENOSPC, if the block fails in any way that does not tell why and the disk has no room left.
    """
    try:
        yield
    except Exception as error:
        is_told = isinstance(error, OSError) and error.errno is not None
        if is_told or shutil.disk_usage(folder).free >= NO_ROOM_BYTES:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


def crc32_of(path: Path) -> str:
    """Give the CRC-32 checksum of a file as eight hexadecimal digits.

    Args:
        path: File to read.
    """
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


@contextmanager
def folder_written_at_once(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the name `folder` when the block ends, and vanishes when it fails.

    Args:
        folder: Final name. A folder already there is replaced only once the new one is complete.

    Yields:
        An empty folder beside `folder` to write into.

    Raises:
        NotADirectoryError: If there is a file of that name.
    """
    folder = Path(folder).resolve()  # a link to a folder stays one
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; name a folder, or move the file away.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with naming_full_disk(temporary):
            yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        temporary.chmod(0o777 & ~_umask())
        _take_the_place_of(folder, temporary)
        _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_the_place_of(folder: Path, new: Path) -> None:
    """Rename `new` to `folder`; a previous folder is moved aside first and brought back if the renaming fails."""
    if not folder.exists():
        new.replace(folder)
        return
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
    previous = aside / folder.name
    try:
        folder.replace(previous)
        new.replace(folder)
    except OSError:
        if previous.exists():
            previous.replace(folder)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it.")


def _make_temporary(path: Path, folder: Path) -> Path:
    """Make an empty file that is to become `path`, hidden, of its suffix, and of a name no other file has."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    return Path(name)


def _is_pipe_or_device(path: Path) -> bool:
    is_special = path.exists() and not (path.is_file() or path.is_dir())
    return is_special or path.parent == Path("/dev")  # /dev/stdout leads to a file where output is redirected


def _sync(path: Path) -> None:
    """Bring a file or folder to the disk; Windows cannot open folders, and there the rename has to do."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """Read the process's file mode mask, which the system only tells by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
