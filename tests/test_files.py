"""Files and folders appear whole or not at all."""

import errno
import os
import shutil
import stat
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from selavpr_peft import files
from selavpr_peft.files import check_writable, crc32_of, folder_written_at_once, naming_full_disk, write_atomically


@pytest.fixture
def umask():
    """Let a test set the process's file mode mask."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refuse_renaming(monkeypatch, is_refused):
    """Let `Path.replace` fail where `is_refused` says so of source and target."""
    replace = Path.replace

    def guarded(self, target):
        if is_refused(self, Path(target)):
            raise PermissionError(f"{self} is in use")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", guarded)


class TestWriteAtomically:
    def test_writes_a_file_and_the_folders_above_it(self, tmp_path):
        path = tmp_path / "new" / "deep" / "a.txt"
        write_atomically(path, lambda temporary: temporary.write_text("whole"))
        assert path.read_text() == "whole"
        assert names(path.parent) == ["a.txt"]

    def test_replaces_a_file(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("old")
        write_atomically(path, lambda temporary: temporary.write_text("new"))
        assert path.read_text() == "new"
        assert names(tmp_path) == ["a.txt"]

    def test_writes_beside_the_file_under_a_hidden_name_with_its_suffix(self, tmp_path):
        seen = []
        write_atomically(tmp_path / "a.png", lambda temporary: seen.append(temporary) or temporary.write_text("x"))
        assert seen[0].parent == tmp_path  # the same file system, so that renaming is atomic
        assert seen[0].name.startswith(".a.png.")
        assert seen[0].suffix == ".png"

    def test_shows_nothing_of_the_new_file_before_it_is_whole(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("old")

        def write(temporary):
            temporary.write_text("half")
            assert path.read_text() == "old"
            temporary.write_text("whole")

        write_atomically(path, write)
        assert path.read_text() == "whole"

    @pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
    @pytest.mark.parametrize("is_there", [True, False])
    def test_keeps_the_old_file_and_nothing_else_when_writing_fails(self, tmp_path, error, is_there):
        path = tmp_path / "a.txt"
        if is_there:
            path.write_text("old")

        def write(temporary):
            temporary.write_text("half")
            raise error

        with pytest.raises(error):
            write_atomically(path, write)
        assert names(tmp_path) == ["a.txt"] * is_there
        assert not is_there or path.read_text() == "old"

    def test_keeps_the_old_file_and_nothing_else_when_renaming_fails(self, tmp_path, monkeypatch):
        path = tmp_path / "a.txt"
        path.write_text("old")
        refuse_renaming(monkeypatch, lambda source, target: target == path)
        with pytest.raises(PermissionError, match="in use"):
            write_atomically(path, lambda temporary: temporary.write_text("new"))
        assert names(tmp_path) == ["a.txt"]
        assert path.read_text() == "old"

    def test_replaces_neither_a_folder_nor_a_link_to_one(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "link").symlink_to("a")
        for name in ("a", "link"):
            with pytest.raises(IsADirectoryError, match=f"{name} is a folder; name a file in it"):
                write_atomically(tmp_path / name, lambda temporary: temporary.write_text("new"))
        assert names(tmp_path) == ["a", "link"]
        assert (tmp_path / "link").is_symlink()

    @pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
    def test_gives_the_permissions_that_the_mask_asks_for(self, tmp_path, umask, mask, expected):
        umask(mask)
        write_atomically(tmp_path / "a.txt", lambda temporary: temporary.write_text("x"))
        assert mode(tmp_path / "a.txt") == expected
        assert os.umask(mask) == mask  # and leaves the mask alone

    def test_brings_the_content_to_the_disk_before_the_name(self, tmp_path, monkeypatch):
        order = []
        fsync, replace = os.fsync, Path.replace
        monkeypatch.setattr(os, "fsync", lambda handle: order.append("sync") or fsync(handle))
        monkeypatch.setattr(Path, "replace", lambda self, target: order.append("rename") or replace(self, target))
        write_atomically(tmp_path / "a.txt", lambda temporary: temporary.write_text("x"))
        assert order == ["sync", "rename", "sync"]

    def test_does_not_open_folders_on_windows(self, tmp_path, monkeypatch):
        opened = []
        monkeypatch.setattr(os, "open", lambda path, flags: opened.append(path))
        monkeypatch.setattr(os, "name", "nt")
        files._sync(tmp_path)
        monkeypatch.undo()
        assert opened == []

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_a_pipe_is_written_to_and_stays_one(self, tmp_path):
        path = tmp_path / "pipe"
        os.mkfifo(path)
        with ThreadPoolExecutor() as threads:
            received = threads.submit(path.read_text)
            write_atomically(path, lambda target: target.write_text("whole"))
        assert received.result() == "whole"
        assert path.is_fifo()
        assert names(tmp_path) == ["pipe"]

    def test_a_device_is_written_to_itself(self):
        seen = []
        write_atomically(Path("/dev/null"), seen.append)
        assert seen == [Path("/dev/null")]


def refusal(write, path):
    """What `write` raises for a path; None if nothing."""
    try:
        write(path)
    except OSError as error:
        return error
    return None


class TestCheckWritable:
    """It refuses what `write_atomically` would, before there is anything to write, and nothing else."""

    @pytest.fixture
    def places(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_text("old")
        (tmp_path / "read-only").write_text("old")
        (tmp_path / "read-only").chmod(0o444)
        (tmp_path / "link to folder").symlink_to("folder")
        (tmp_path / "link to file").symlink_to("file")
        (tmp_path / "link to nothing").symlink_to("nowhere")
        return tmp_path

    @pytest.mark.parametrize(
        ("name", "is_refused"),
        [
            ("new.json", False),
            ("missing/deep/new.json", False),
            ("missing/../new.json", False),
            ("file", False),
            ("read-only", False),  # it is replaced, not written to
            ("link to file", False),
            ("link to nothing", False),
            ("link to folder/new.json", False),
            ("/dev/null", False),
            ("folder", True),
            ("link to folder", True),
            ("file/new.json", True),
            ("file/deep/new.json", True),
            ("link to nothing/new.json", True),
            ("n" * 250, True),  # too long with the letters of a temporary name
            ("/dev/null/new.json", True),
            pytest.param(
                *("/proc/selavpr/new.json", True),
                marks=pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where root fails, too"),
            ),
        ],
    )
    def test_it_agrees_with_the_write(self, places, name, is_refused):
        before = names(places)
        refused = refusal(check_writable, places / name)
        assert names(places) == before
        failed = refusal(lambda path: write_atomically(path, lambda target: target.write_text("x")), places / name)
        assert (refused is not None) == (failed is not None) == is_refused

    def test_a_folder_is_named(self, places):
        with pytest.raises(IsADirectoryError, match=r"folder is a folder; name a file in it\.$"):
            check_writable(places / "folder")

    def test_the_folder_that_takes_no_file_is_named_with_the_reason(self, places, monkeypatch):
        def refuse(**wanted):
            raise PermissionError(errno.EACCES, "Permission denied", wanted["dir"])

        monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
        path = places / "missing" / "new.json"
        with pytest.raises(OSError, match="cannot be written") as refused:
            check_writable(path)
        assert str(refused.value) == (
            f"{path} cannot be written, because {places} takes no such file (Permission denied); write it elsewhere."
        )

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_a_pipe_is_neither_opened_nor_replaced(self, tmp_path, monkeypatch):
        os.mkfifo(tmp_path / "pipe")
        check_writable(tmp_path / "pipe")  # opening it would wait for a reader
        assert names(tmp_path) == ["pipe"]
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
        with pytest.raises(PermissionError, match="pipe is not open for writing; name a file"):
            check_writable(tmp_path / "pipe")


class TestFolderWrittenAtOnce:
    def test_appears_with_its_content_when_the_block_ends(self, tmp_path):
        folder = tmp_path / "new" / "adapter"
        with folder_written_at_once(folder) as temporary:
            fill(temporary, "whole")
            assert not folder.exists()
        assert content(folder) == "whole"
        assert names(folder.parent) == ["adapter"]

    def test_replaces_a_folder_with_all_that_was_in_it(self, tmp_path):
        folder = tmp_path / "adapter"
        fill(folder, "old")
        (folder / "left over.txt").write_text("x")
        with folder_written_at_once(folder) as temporary:
            fill(temporary, "new")
            assert content(folder) == "old"
        assert content(folder) == "new"
        assert names(folder) == ["deep"]
        assert names(tmp_path) == ["adapter"]

    def test_follows_a_link_to_a_folder(self, tmp_path):
        fill(tmp_path / "disk" / "adapter", "old")
        (tmp_path / "link").symlink_to(tmp_path / "disk" / "adapter")
        with folder_written_at_once(tmp_path / "link") as temporary:
            fill(temporary, "new")
        assert (tmp_path / "link").is_symlink()
        assert content(tmp_path / "disk" / "adapter") == "new"
        assert names(tmp_path) == ["disk", "link"]
        assert names(tmp_path / "disk") == ["adapter"]

    @pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
    @pytest.mark.parametrize("is_there", [True, False])
    def test_keeps_the_old_folder_and_nothing_else_when_the_block_fails(self, tmp_path, error, is_there):
        folder = tmp_path / "adapter"
        if is_there:
            fill(folder, "old")
        with pytest.raises(error):
            self.write_half(folder, error)
        assert names(tmp_path) == ["adapter"] * is_there
        assert not is_there or content(folder) == "old"

    def write_half(self, folder, error):
        with folder_written_at_once(folder) as temporary:
            fill(temporary, "half")
            raise error

    def test_brings_the_old_folder_back_when_renaming_the_new_one_fails(self, tmp_path, monkeypatch):
        folder = tmp_path / "adapter"
        fill(folder, "old")
        refuse_renaming(monkeypatch, lambda source, target: target == folder and ".old." not in str(source))
        with pytest.raises(PermissionError, match="in use"), folder_written_at_once(folder) as temporary:
            fill(temporary, "new")
        assert content(folder) == "old"
        assert names(tmp_path) == ["adapter"]

    def test_leaves_the_old_folder_in_place_when_it_cannot_be_moved_aside(self, tmp_path, monkeypatch):
        folder = tmp_path / "adapter"
        fill(folder, "old")
        refuse_renaming(monkeypatch, lambda source, target: source == folder)
        with pytest.raises(PermissionError, match="in use"), folder_written_at_once(folder) as temporary:
            fill(temporary, "new")
        assert content(folder) == "old"
        assert names(tmp_path) == ["adapter"]

    def test_never_deletes_the_old_folder_even_when_it_cannot_be_brought_back(self, tmp_path, monkeypatch):
        folder = tmp_path / "adapter"
        fill(folder, "old")
        refuse_renaming(monkeypatch, lambda source, target: target == folder)
        with pytest.raises(PermissionError, match="in use"), folder_written_at_once(folder) as temporary:
            fill(temporary, "new")
        (aside,) = tmp_path.iterdir()
        assert aside.name.startswith(".adapter.old.")
        assert content(aside / "adapter") == "old"

    def test_does_not_replace_a_file(self, tmp_path):
        (tmp_path / "adapter").write_text("old")
        in_vain = pytest.raises(NotADirectoryError, match="adapter is a file; name a folder")
        with in_vain, folder_written_at_once(tmp_path / "adapter"):
            pytest.fail("the work would be done in vain")
        assert (tmp_path / "adapter").read_text() == "old"
        assert names(tmp_path) == ["adapter"]

    @pytest.mark.parametrize(("mask", "folders", "contents"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
    def test_gives_the_permissions_that_the_mask_asks_for(self, tmp_path, umask, mask, folders, contents):
        umask(mask)
        with folder_written_at_once(tmp_path / "adapter") as temporary:
            fill(temporary, "x")
        assert mode(tmp_path / "adapter") == mode(tmp_path / "adapter" / "deep") == folders
        assert mode(tmp_path / "adapter" / "deep" / "a.txt") == contents


def fill(folder, text):
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text(text)


def content(folder):
    return (folder / "deep" / "a.txt").read_text()


class TestNamingFullDisk:
    """What libraries raise when a write comes to the end of the disk, as a small tmpfs shows it."""

    IN_OTHER_WORDS = (
        OSError("1000000 requested and 131056 written"),  # NumPy
        RuntimeError("Error in void faiss::write_index: Error: 'ret == (size * 4)' failed"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 273408 vs 273296"),  # PyTorch
    )

    @pytest.fixture
    def room(self, monkeypatch):
        """Let the disk have so much room left."""

        def leave(free):
            usage = shutil.disk_usage("/")
            monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage._replace(free=free))

        return leave

    @pytest.mark.parametrize("error", IN_OTHER_WORDS)
    def test_a_full_disk_is_told_and_the_reason_kept(self, tmp_path, room, error):
        room(4096)
        with pytest.raises(OSError, match="No space left on device") as told, naming_full_disk(tmp_path):
            raise error
        assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(tmp_path))
        assert told.value.__cause__ is error

    @pytest.mark.parametrize("error", IN_OTHER_WORDS)
    def test_with_room_left_errors_stay_what_they_are(self, tmp_path, room, error):
        room(1 << 30)
        with pytest.raises(type(error)) as raised, naming_full_disk(tmp_path):
            raise error
        assert raised.value is error

    def test_an_error_that_says_why_stays_what_it_is(self, tmp_path, room):
        room(0)
        with pytest.raises(PermissionError, match="Operation not permitted"), naming_full_disk(tmp_path):
            raise PermissionError(errno.EPERM, "Operation not permitted")

    def test_files_and_folders_are_written_so(self, tmp_path, room):
        room(0)
        with pytest.raises(OSError, match="No space left on device"):
            write_atomically(tmp_path / "a.npy", stop)
        with pytest.raises(OSError, match="No space left on device"), folder_written_at_once(tmp_path / "adapter"):
            stop(tmp_path)
        assert names(tmp_path) == []


def stop(path):
    raise RuntimeError("Error in void faiss::write_index")


class TestCrc32Of:
    def test_the_check_value_of_the_algorithm(self, tmp_path):
        (tmp_path / "digits").write_bytes(b"123456789")
        assert crc32_of(tmp_path / "digits") == "cbf43926"  # published with the definition of CRC-32

    def test_files_larger_than_a_block(self, tmp_path):
        (tmp_path / "zeros").write_bytes(bytes((1 << 20) + 1))
        assert crc32_of(tmp_path / "zeros") == f"{zlib.crc32(bytes((1 << 20) + 1)):08x}"
