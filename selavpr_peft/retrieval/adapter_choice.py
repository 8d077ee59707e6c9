"""Several adapters over one backbone: find the one that a place database was described with."""

from peft import PeftModel

from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint
from selavpr_peft.retrieval.place_database import PlaceDatabase


def adapter_for(model: PeftModel, database: PlaceDatabase) -> str:
    """Name the adapter of a model whose weights a database was described with.

    Args:
        model: A model with one or several SelaVPR adapters.
        database: An open database.

    Raises:
        PlaceDatabaseError: If none of them is; the message names those that were looked at.
    """
    for name in model.peft_config:
        if adapter_fingerprint(model, name) == database.manifest.adapter:
            return name
    raise PlaceDatabaseError(
        f"{database.folder} was described with an adapter whose digest is {database.manifest.adapter}, which is"
        f" none of {list(model.peft_config)}; load that adapter too, or build the database again."
    )


def activate_adapter_for(model: PeftModel, database: PlaceDatabase) -> str:
    """Make the adapter that a database was described with the active one, and give its name.

    Args:
        model: A model with one or several SelaVPR adapters.
        database: An open database.

    Raises:
        PlaceDatabaseError: If none of them is the database's.
    """
    name = adapter_for(model, database)
    model.set_adapter(name)
    return name
