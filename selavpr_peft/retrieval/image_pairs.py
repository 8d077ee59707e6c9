"""Hand retrieved places on to pose estimation: the list of image pairs that hloc and COLMAP match next.

Both read one pair a line, query first, names separated by a space and relative to the image folder. hloc writes such a
list in pairs_from_retrieval.py and reads it in utils/parsers.py; COLMAP reads it as the match list of
`matches_importer --match_type pairs` (tutorial, "Custom Matching").
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from selavpr_peft.files import write_text_atomically


def image_pairs(
    queries: Sequence[str], candidates: Sequence[Sequence[str]], *, top_k: int | None = None
) -> list[tuple[str, str]]:
    """Pair every query with its candidates.

    Args:
        queries: Names of the query images.
        candidates: Names of each query's database images, best first.
        top_k: Candidates taken of each query; None takes all.

    Returns:
        Pairs of query and database image, in the order of the queries and best first. A pair is listed once, and no
        image is paired with itself, as in hloc.

    Raises:
        ValueError: If there are not as many lists of candidates as queries, or `top_k` is below one.

    Example:
        >>> image_pairs(["q/1.jpg"], [["db/7.jpg", "q/1.jpg", "db/3.jpg"]], top_k=2)
        [('q/1.jpg', 'db/7.jpg'), ('q/1.jpg', 'db/3.jpg')]
    """
    if len(queries) != len(candidates):
        raise ValueError(f"Expected candidates for {len(queries)} queries, got {len(candidates)}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}.")
    pairs: dict[tuple[str, str], None] = {}
    for query, names in zip(queries, candidates, strict=True):
        others = [name for name in dict.fromkeys(names) if name != query]
        pairs.update(dict.fromkeys((query, name) for name in others[:top_k]))
    return list(pairs)


def write_image_pairs(pairs: Iterable[tuple[str, str]], path: str | Path) -> None:
    """Write pairs as hloc and COLMAP read them; if that fails, a file that was there before is kept.

    Args:
        pairs: Names of query and database image, relative to the image folder.
        path: Text file; missing folders are made.

    Raises:
        ValueError: If a name has white space or begins with "#", which the two would misread, or is empty.
    """
    lines = []
    for pair in pairs:
        for name in pair:
            if name.split() != [name] or name.startswith("#"):
                raise ValueError(
                    f"A list of pairs takes names without white space that do not begin with #, got {name!r}; rename"
                    " the image."
                )
        lines.append(" ".join(pair) + "\n")
    write_text_atomically(Path(path), "".join(lines))


def name_within(picture: str | Path, image_folder: str | Path) -> str:
    """Name a picture by its path relative to the image folder, with forward slashes.

    Args:
        picture: Path of the picture.
        image_folder: The folder hloc and COLMAP are given.

    Raises:
        ValueError: If the picture is not in that folder.
    """
    # links stay as they are named: a data set may well be a folder of links
    path, folder = (Path(os.path.abspath(place)) for place in (picture, image_folder))  # noqa: PTH100
    if not path.is_relative_to(folder):
        raise ValueError(f"{picture} is not in the image folder {image_folder}; name a folder that holds all images.")
    return path.relative_to(folder).as_posix()
