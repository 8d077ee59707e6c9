from .hub.loading import load as load
from .hub.descriptor_pipeline import pipeline as pipeline
from .modeling.output import SelaOutput as SelaOutput
from .tuner.config import SelaConfig as SelaConfig
from .tuner.model import SelaModel as SelaModel

__version__: str
