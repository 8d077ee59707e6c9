"""The small JSON file beside an index: what it is, by which versions it was made, and which rows were removed."""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, NonNegativeInt, PositiveInt, ValidationError

from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.files import write_text_atomically
from selavpr_peft.retrieval.index_kinds import KINDS
from selavpr_peft.validation import explain, one_of

FORMAT_VERSION: Final = 1


class _AnyVersion(BaseModel, strict=True):
    format_version: int
    faiss_version: str


class IndexDescription(BaseModel, frozen=True, strict=True):
    """What is known of an index beside its rows.

    Args:
        format_version: Of index and description.
        faiss_version: The version that wrote the index.
        kind: One of `index_kinds.KINDS`.
        model: Names the model that made the descriptors.
        num_rows: Rows, removed ones included.
        num_channels: Length of a descriptor.
        removed_rows: Rows that are never found, ascending.
        crc32: Checksum of the index, which faiss does not keep.
    """

    format_version: Literal[1] = FORMAT_VERSION
    faiss_version: str
    kind: Annotated[str, one_of(KINDS)]
    model: str
    num_rows: NonNegativeInt
    num_channels: PositiveInt
    removed_rows: list[NonNegativeInt]
    crc32: str

    @classmethod
    def read(cls, index: Path) -> "IndexDescription":
        """Read the description of an index.

        Args:
            index: File of the index.

        Raises:
            PlaceDatabaseError: If it is missing, damaged or of another version.
        """
        path = index.with_suffix(".json")
        try:
            text = path.read_bytes()
            written = _AnyVersion.model_validate_json(text)
            if written.format_version != FORMAT_VERSION:
                raise PlaceDatabaseError(
                    f"{index} has format version {written.format_version} (faiss {written.faiss_version}), and this"
                    f" release reads {FORMAT_VERSION}."
                )
            return cls.model_validate_json(text)
        except OSError as error:
            raise PlaceDatabaseError(f"{index} cannot be used without {path.name} beside it: {error}.") from error
        except ValidationError as error:
            raise PlaceDatabaseError(f"{index} cannot be used: of {path.name}, {explain(error)}.") from None

    def write(self, index: Path) -> None:
        """Write it beside an index, all of it or nothing.

        Args:
            index: File of the index.
        """
        write_text_atomically(index.with_suffix(".json"), self.model_dump_json(indent=2) + "\n")
