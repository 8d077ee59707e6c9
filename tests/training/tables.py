"""Tables of places without pictures behind them, for what never opens one."""

from datasets import Dataset, DatasetDict, Image


def table(places):
    """Make a table of dictionaries with `position`, `picture` and perhaps `traverse` and `note`."""
    columns = {"image": [place["picture"] for place in places], "key": [f"row {row}" for row in range(len(places))]}
    dims = len(places[0]["position"])
    names = ["frame"] if dims == 1 else ["easting_m", "northing_m"]
    for axis, name in enumerate(names):
        columns[name] = [place["position"][axis] for place in places]
    for name in ("traverse", "note"):
        if places[0].get(name) is not None:
            columns[name] = [place[name] for place in places]
    return Dataset.from_dict(columns).cast_column("image", Image())


def splits(queries, database):
    return DatasetDict({"queries": table(queries), "database": table(database)})


def place(*position, picture, traverse=None, note=None):
    return {"position": position, "picture": picture, "traverse": traverse, "note": note}


def line(positions, prefix, **extra):
    """Places along a line, at these positions in metres."""
    return [place(float(x), 0.0, picture=f"{prefix}{index}.jpg", **extra) for index, x in enumerate(positions)]
