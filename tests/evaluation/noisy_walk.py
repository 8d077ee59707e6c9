"""A walk whose queries are partly blurred by noise, and partly of places that the database does not have."""

import numpy as np
from PIL import Image

NUM_PLACES, NUM_SEEN, NUM_ELSEWHERE = 10, 40, 20


def write_noisy_walk(folder):
    """Write `places.csv` and the pictures: ten by day, and sixty by night, every third of them taken elsewhere."""
    rng = np.random.default_rng(0)
    places = rng.integers(0, 256, size=(NUM_PLACES, 6, 8, 3), dtype=np.uint8)
    lines = ["image,traverse,frame"]

    def write(name, pixels, traverse, frame):
        (folder / traverse).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(folder / traverse / name)
        lines.append(f"{traverse}/{name},{traverse},{frame}")

    for place, pixels in enumerate(places):
        write(f"{place}.png", pixels, "day", 10 * place)
    for number in range(NUM_SEEN + NUM_ELSEWHERE):
        elsewhere = number % 3 == 2
        place = number % NUM_PLACES
        noise = rng.normal(0, 20, size=places[place].shape)
        seen = np.clip(places[place] + noise, 0, 255).astype(np.uint8)
        unseen = rng.integers(0, 256, size=seen.shape, dtype=np.uint8)
        write(f"{number}.png", unseen if elsewhere else seen, "night", 10_000 if elsewhere else 10 * place)
    (folder / "places.csv").write_text("\n".join(lines) + "\n")
    return folder
