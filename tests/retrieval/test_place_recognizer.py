"""Recognising places: the ranking is that of both stages done by hand, and senseless questions are refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from selavpr_peft.errors import PlaceDatabaseError, UnreadableImageError
from selavpr_peft.matching import count_mutual_matches, quantize_local_features, rerank
from selavpr_peft.modeling.preprocessing import Preprocessing, read_image
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer, place_recognizer
from selavpr_peft.retrieval.place_recognizer import distances_m
from tests.retrieval.conftest import make_model


@pytest.fixture
def database(model, places, tmp_path):
    return PlaceDatabase.build(model, places, tmp_path / "db")


@pytest.fixture
def recognizer(model, database):
    return PlaceRecognizer(model, database)


@pytest.fixture
def darkened(photographs, tmp_path):
    """Place 7, darker."""
    path = tmp_path / "query.png"
    Image.open(photographs / "7.png").point(lambda value: value // 2).save(path)
    return path


class TestRecognize:
    def test_a_picture_of_the_database_is_recognised(self, recognizer, photographs):
        best = recognizer.recognize(photographs / "7.png")[0]
        assert (best.key, best.row, best.image) == ("place 7", 7, str(photographs / "7.png"))
        assert best.coordinates == {"latitude": 66.007, "longitude": -18.0, "frame": 7}
        assert best.columns["street"] == "Aðalgata"
        assert best.num_matches > 200  # of 13 x 17 locations, nearly all match themselves also in float16
        assert best.score == pytest.approx(1, abs=1e-4)

    @torch.inference_mode()
    @pytest.mark.parametrize(
        ("local_dtype", "query_dtype"),
        [("float32", "float32"), ("int8", "int8"), ("binary", "int8")],
    )
    def test_the_ranking_is_that_of_both_stages_done_by_hand(
        self, model, places, darkened, tmp_path, local_dtype, query_dtype
    ):
        database = PlaceDatabase.build(model, places, tmp_path / "db", local_dtype=local_dtype)
        found = PlaceRecognizer(model, database).recognize(darkened, top_k=8, rerank_num=5)
        prepare = Preprocessing(image_size=(56, 70))
        pictures = [darkened, *(image["path"] for image in places.cast_column("image", undecoded())["image"])]
        output = model(pixel_values=torch.stack([prepare(read_image(path)) for path in pictures]))
        scores = output.global_descriptors[1:] @ output.global_descriptors[0]
        order = scores.argsort(descending=True)
        query = quantize_local_features(output.local_features[0], query_dtype)
        counts = count_mutual_matches(
            query, quantize_local_features(output.local_features[1:][order[:5]], local_dtype)
        )
        expected = [*rerank(counts, order[:5]).tolist(), *order[5:8].tolist()]
        assert [place.row for place in found] == expected
        assert sorted(place.num_matches for place in found[:5]) == sorted(counts.tolist())
        assert [place.num_matches for place in found[5:]] == [None] * 3
        assert [place.score for place in found] == pytest.approx(scores[expected].tolist(), abs=1e-5)

    @torch.inference_mode()
    @pytest.mark.parametrize("local_dtype", ["float16", "binary"])
    def test_in_two_passes_the_best_of_the_first_are_compared_by_all_there_is(
        self, model, places, darkened, tmp_path, local_dtype
    ):
        database = PlaceDatabase.build(model, places, tmp_path / "db", local_dtype=local_dtype)
        recognizer = PlaceRecognizer(model, database)
        exact = {place.key: place.num_matches for place in recognizer.recognize(darkened, rerank_num=8)}
        found = recognizer.recognize(darkened, rerank_num=8, num_exact=3)
        assert [place.num_matches is None for place in found] == [False] * 3 + [True] * 7
        assert all(place.num_matches == exact[place.key] for place in found[:3])
        assert found[0].num_matches >= found[1].num_matches >= found[2].num_matches
        assert found[0].key == max(exact, key=lambda key: exact[key] or 0)
        assert sorted(place.row for place in found) == list(range(10))

    def test_two_passes_over_few_candidates_or_locations_are_one(self, model, places, darkened, recognizer, tmp_path):
        assert recognizer.recognize(darkened, num_exact=10) == recognizer.recognize(darkened)
        thin = PlaceRecognizer(model, PlaceDatabase.build(model, places, tmp_path / "thin", keep_locations=20))
        assert thin.recognize(darkened, num_exact=1) == thin.recognize(darkened)

    def test_several_pictures_are_answered_in_their_order(self, recognizer, photographs):
        images = [photographs / "3.png", str(photographs / "1.png"), Image.open(photographs / "8.png")]
        found = recognizer.recognize(images, top_k=1, batch_size=2)
        assert [[place.key for place in places] for places in found] == [["place 3"], ["place 1"], ["place 8"]]

    def test_frames_of_a_camera_are_arrays_and_come_one_after_another(self, recognizer, photographs):
        frame = np.array(Image.open(photographs / "3.png"))
        assert recognizer.recognize(frame)[0].key == "place 3"
        stream = (np.array(Image.open(photographs / f"{number}.png")) for number in (3, 1, 8))
        found = recognizer.recognize(stream, top_k=1, batch_size=2)
        assert [[place.key for place in places] for places in found] == [["place 3"], ["place 1"], ["place 8"]]

    def test_no_pictures_get_no_answers(self, recognizer):
        assert recognizer.recognize([]) == []

    def test_more_places_than_there_are_gives_all(self, recognizer, darkened):
        found = recognizer.recognize(darkened, top_k=99, rerank_num=200)
        assert sorted(place.row for place in found) == list(range(10))

    def test_without_re_ranking_the_order_is_that_of_similarity(self, recognizer, darkened):
        found = recognizer.recognize(darkened, rerank_num=0)
        assert [place.num_matches for place in found] == [None] * 10
        scores = [place.score for place in found]
        assert scores == sorted(scores, reverse=True)

    def test_the_rank_before_re_ranking_is_told(self, recognizer, darkened):
        plain = recognizer.recognize(darkened, rerank_num=0)
        found = recognizer.recognize(darkened)
        assert [place.retrieval_rank for place in plain] == list(range(10))
        assert [place.row for place in found] != [place.row for place in plain]
        assert [plain[place.retrieval_rank].row for place in found] == [place.row for place in found]

    def test_only_candidates_within_the_window_are_re_ranked(self, recognizer, darkened):
        plain = recognizer.recognize(darkened, rerank_num=0)
        window = plain[0].score - plain[3].score + 1e-6
        found = recognizer.recognize(darkened, rerank_window=window)
        assert [place.num_matches is None for place in found] == [False] * 4 + [True] * 6
        assert {place.row for place in found[:4]} == {place.row for place in plain[:4]}
        assert [place.row for place in found[4:]] == [place.row for place in plain[4:]]
        assert recognizer.recognize(darkened, rerank_window=2) == recognizer.recognize(darkened)

    def test_a_clear_lead_is_not_re_ranked(self, recognizer, darkened):
        found = recognizer.recognize(darkened, rerank_window=0)
        assert found == recognizer.recognize(darkened, rerank_num=0)

    def test_a_model_without_local_head_retrieves(self, places, darkened, tmp_path):
        model = make_model(use_local_head=False)
        recognizer = PlaceRecognizer(model, PlaceDatabase.build(model, places, tmp_path / "db"))
        found = recognizer.recognize(darkened)
        assert [place.num_matches for place in found] == [None] * 10
        with pytest.raises(ValueError, match="no local head"):
            recognizer.match(darkened, found[0])

    def test_only_places_near_a_point_are_considered(self, recognizer, darkened):
        found = recognizer.recognize(darkened, near=(66.002, -18.0), radius_m=120)  # places are 111 m apart
        assert sorted(place.row for place in found) == [1, 2, 3]
        assert recognizer.recognize(darkened, near=(0.0, 0.0), radius_m=1000) == []


class TestMatch:
    def test_matches_lie_in_both_pictures(self, recognizer, photographs, tmp_path):
        Image.open(photographs / "7.png").resize((168, 120), Image.Resampling.BICUBIC).save(tmp_path / "larger.png")
        points = recognizer.match(tmp_path / "larger.png", recognizer.recognize(photographs / "7.png")[0])
        assert len(points.query_points_px) == len(points.database_points_px) == len(points.similarities) > 10
        for found, size in ((points.query_points_px, [168, 120]), (points.database_points_px, [84, 60])):
            assert (found > 0).all()
            assert (found < size).all()
        distances = np.linalg.norm(points.query_points_px - 2 * points.database_points_px, axis=1)
        assert np.median(distances) < 1  # the pictures show the same, one twice as large

    def test_a_picture_that_was_moved_is_named(self, recognizer, darkened, photographs):
        best = recognizer.recognize(photographs / "7.png")[0]
        (photographs / "7.png").rename(photographs / "moved.png")
        with pytest.raises(UnreadableImageError, match=r"7\.png"):
            recognizer.match(darkened, best)

    def test_from_another_folder_it_is_said_where_relative_paths_begin(
        self, model, places, photographs, darkened, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(photographs)
        relative = places.remove_columns("image").add_column("image", [f"{number}.png" for number in range(10)])
        recognizer = PlaceRecognizer(model, PlaceDatabase.build(model, relative, tmp_path / "db"))
        (best,) = recognizer.recognize(darkened, top_k=1)
        assert len(recognizer.match(darkened, best).similarities)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(
            UnreadableImageError, match=f"no image {best.image} of the database in {tmp_path}: its paths"
        ):
            recognizer.match(darkened, best)


class TestRefusals:
    def test_a_model_that_did_not_build_the_database_is_refused(self, database):
        with pytest.raises(PlaceDatabaseError, match="was built with another adapter"):
            PlaceRecognizer(make_model(seed=1), database)

    def test_an_adapter_that_became_active_meanwhile_is_refused(self, database, darkened):
        model = make_model()
        recognizer = PlaceRecognizer(model, database)
        (place,) = recognizer.recognize(darkened, top_k=1)
        model.add_adapter("other city", model.peft_config["default"])
        model.set_adapter("other city")
        for ask in (recognizer.recognize, lambda image: recognizer.match(image, place)):
            with pytest.raises(PlaceDatabaseError, match=r"'default', but 'other city' is active .*set_adapter\('def"):
                ask(darkened)
        model.set_adapter("default")
        assert recognizer.recognize(darkened, top_k=1) == [place]

    def test_what_is_no_picture_is_named(self, recognizer, tmp_path):
        (tmp_path / "notes.txt").write_text("no picture")
        with pytest.raises(UnreadableImageError, match=r"notes\.txt"):
            recognizer.recognize(tmp_path / "notes.txt")

    def test_what_is_neither_path_nor_picture_is_refused(self, recognizer):
        for wrong in ([b"bytes"], [torch.zeros(3, 4, 4)], [{"image": "a.jpg"}]):
            with pytest.raises(TypeError, match="8-bit array .* got|Type-check error"):  # the latter in tests
                recognizer.recognize(wrong)
        with pytest.raises(ValueError, match=r"got uint8 \(2, 4, 4, 3\).* passed as a list"):
            recognizer.recognize(np.zeros((2, 4, 4, 3), np.uint8))

    @pytest.mark.parametrize("value", [np.nan, 0.0])
    @pytest.mark.parametrize("part", ["global_descriptors", "local_features"])
    def test_a_description_that_says_nothing_is_refused_and_the_picture_named(
        self, recognizer, photographs, darkened, monkeypatch, part, value
    ):
        describe = place_recognizer.describe

        def spoil(model, pixel_values):
            descriptors, features = (part.clone() for part in describe(model, pixel_values))
            (descriptors if part == "global_descriptors" else features)[1] = value
            return descriptors, features

        monkeypatch.setattr(place_recognizer, "describe", spoil)
        with pytest.raises(ValueError, match=r"NaN, infinity or only zeros for .*query\.png; check"):
            recognizer.recognize([photographs / "7.png", darkened])

    @pytest.mark.parametrize("numbers", [{"top_k": 0}, {"rerank_num": -1}])
    def test_numbers_out_of_range_are_refused(self, recognizer, darkened, numbers):
        with pytest.raises(ValueError, match="top_k must be at least 1 and rerank_num at least 0"):
            recognizer.recognize(darkened, **numbers)

    def test_a_window_below_zero_is_refused(self, recognizer, darkened):
        with pytest.raises(ValueError, match="rerank_window must be a difference of scores of 0 or more, got -0.1"):
            recognizer.recognize(darkened, rerank_window=-0.1)

    @pytest.mark.parametrize("half", [{"near": (66.0, -18.0)}, {"radius_m": 10.0}])
    def test_half_a_neighbourhood_is_refused(self, recognizer, darkened, half):
        with pytest.raises(ValueError, match="near and radius_m must be given together"):
            recognizer.recognize(darkened, **half)

    @pytest.mark.parametrize("near", [(-180.0, 66.0), (float("nan"), 0.0)])
    def test_a_point_that_is_none_is_refused(self, recognizer, darkened, near):
        with pytest.raises(ValueError, match=r"must be a latitude in \[-90, 90\]"):
            recognizer.recognize(darkened, near=near, radius_m=10.0)

    @pytest.mark.parametrize("batch_size", [0, -1])
    def test_a_batch_of_no_photograph_is_refused_instead_of_answering_none(self, recognizer, darkened, batch_size):
        with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {batch_size}"):
            recognizer.recognize([darkened], batch_size=batch_size)

    def test_a_point_for_every_photograph_is_refused(self, recognizer, darkened):
        with pytest.raises((ValueError, TypeError), match="must be one point .* one by one|Type-check"):
            recognizer.recognize([darkened] * 3, near=[(66.0, -18.0)] * 3, radius_m=10.0)

    def test_nearness_needs_coordinates(self, model, places, darkened, tmp_path):
        database = PlaceDatabase.build(model, places.remove_columns("latitude"), tmp_path / "db")
        with pytest.raises(ValueError, match="needs a database with the columns 'latitude' and 'longitude'"):
            PlaceRecognizer(model, database).recognize(darkened, near=(66.0, -18.0), radius_m=10.0)

    def test_damaged_features_of_a_candidate_are_named(self, recognizer, darkened):
        path = recognizer.database.folder / "local_features" / "00000.npy"
        content = bytearray(path.read_bytes())
        content[200] ^= 1
        path.write_bytes(content)
        again = PlaceRecognizer(recognizer.model, PlaceDatabase.open(path.parent.parent))
        with pytest.raises(PlaceDatabaseError, match=r"00000\.npy is damaged"):
            again.recognize(darkened)
        again.database.remove(key for key, _ in list(again.database.damaged_places()))
        assert len(again.recognize(darkened)) == 9  # the rest is usable


class TestDistances:
    def test_golden_cases(self):
        # a degree of latitude is 2 pi R / 360 = 111195 m; a degree of longitude at 60 degrees north is half of it
        found = distances_m(np.array([1.0, 60.0, 0.0]), np.array([0.0, 1.0, 180.0]), (0.0, 0.0))
        assert found[0] == pytest.approx(111_195, abs=1)
        assert found[2] == pytest.approx(np.pi * 6_371_008.8, abs=1)
        assert distances_m(np.array([60.0]), np.array([1.0]), (60.0, 0.0))[0] == pytest.approx(55_597, abs=3)

    def test_the_shortest_way_may_cross_the_date_line(self):
        assert distances_m(np.array([0.0]), np.array([179.5]), (0.0, -179.5))[0] == pytest.approx(111_195, abs=1)


def undecoded():
    from datasets import Image as ImageColumn

    return ImageColumn(decode=False)
