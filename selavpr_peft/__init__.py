"""SelaVPR (ICLR 2024) as a Hugging Face PEFT method: visual place recognition on a frozen DINOv2.

Importing this package is cheap: the public names load when they are first used, and the PEFT type "SELA" is
registered the moment peft is imported (at once if it already is).
"""

import lazy_loader as _lazy_loader

from selavpr_peft import registration as _registration

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
__all__ = [*__all__, "__version__"]

_registration.arm()
