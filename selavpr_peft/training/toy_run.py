"""A training run small enough for a demonstration: a tiny random backbone learns a synthetic city in about a minute.

Its settings are not those of the paper, which starts from a pretrained network: here everything must be learned from
a few hundred small pictures. Places with frame numbers up to LAST_TRAINED_FRAME are trained on, the others are new.
"""

from pathlib import Path

from peft import PeftModel

from selavpr_peft.data.loading import load_places
from selavpr_peft.data.toy_city import write_toy_city
from selavpr_peft.hub.loading import adapt_freshly
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.training.arguments import SelaTrainingArguments
from selavpr_peft.training.trainer import SelaTrainer
from selavpr_peft.tuner.config import SelaConfig

NUM_PLACES = 130
LAST_TRAINED_FRAME = 89
TRAVERSES = ("day", "night", "dusk", "rain")
PICTURE_SIZE = (112, 140)
IMAGE_SIZE = (56, 70)
NUM_ROUNDS = 8


def draw_toy_city(folder: Path, num_places: int = NUM_PLACES) -> Path:
    """Draw the city, each place once per traverse.

    Args:
        folder: Where to write it.
        num_places: Places, numbered by frame.
    """
    return write_toy_city(folder, num_places=num_places, traverses=TRAVERSES, size=PICTURE_SIZE)


def toy_model(seed: int = 0) -> PeftModel:
    """Adapt a tiny random backbone that is just large enough to learn the city.

    Args:
        seed: Determines backbone and adapter.
    """
    config = SelaConfig(image_size=IMAGE_SIZE, local_channels=(16, 8))
    return adapt_freshly(toy_backbone(seed=seed, hidden_size=128, num_layers=2), config, seed=seed)


def train_on_toy_city(
    model: PeftModel, city: Path, output_dir: Path, *, num_rounds: int = NUM_ROUNDS, seed: int = 0
) -> None:
    """Train on the first places of the city and save the adapter.

    Args:
        model: A model by `toy_model`; trained in place.
        city: Folder of a city by `draw_toy_city`.
        output_dir: Folder for the adapter.
        num_rounds: Mining rounds.
        seed: Determines what is mined.
    """
    settings = SelaTrainingArguments(
        output_dir=str(output_dir),
        use_cpu=True,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        positive_radius=0.0,
        negative_radius=0.0,
        queries_per_round=100,
        num_negatives=4,
        per_device_train_batch_size=8,
        num_train_epochs=float(num_rounds),
        learning_rate=2e-3,
        seed=seed,
    )
    trainer = SelaTrainer(model=model, args=settings, train_places=load_places(city, frames=(0, LAST_TRAINED_FRAME)))
    trainer.train()
    trainer.save_model()
