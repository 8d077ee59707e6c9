"""The exceptions a caller may want to catch; everything else is a plain ValueError or the host library's own error.

Each also is the built-in exception that code not knowing this package would catch.
"""


class UnsupportedBackboneError(ValueError):
    """The model given as backbone is not one whose blocks and patch tokens SelaVPR knows."""


class BackboneMismatchError(ValueError):
    """An adapter or checkpoint was made for a backbone with another depth, width, patch size or other weights."""


class CheckpointError(ValueError):
    """A checkpoint file is damaged, unsafe to read, or not in the format expected."""


class DatasetFormatError(ValueError):
    """A table or folder of places does not have the layout that was announced."""


class UnreadableImageError(OSError):
    """An image file is missing, damaged or in a format that Pillow does not read."""


class PlaceDatabaseError(ValueError):
    """A place database is damaged, incomplete, in use, or was made by another model or with other settings."""


class HubError(OSError):
    """The Hub could not be asked or refused; the message says why, what to do, and nothing secret."""
