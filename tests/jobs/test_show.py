"""``patchcert show``: a picture for every kind of ablation, and mistakes in words."""

import io
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jobs.cli import main
from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.report.one_image import Scene
from pipeline.report.one_image_plot import draw_figure, explained
from pipeline.report.worst_case import smallest_margin
from tests.conftest import png, random_images


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("show") / "image.png"
    path.write_bytes(png(random_images(1)[0]))
    return str(path)


def draw(tmp_path, *flags: str) -> np.ndarray:
    out = tmp_path / "picture.png"
    assert main(["show", "--out", str(out), *flags]) == 0
    picture = np.asarray(Image.open(io.BytesIO(out.read_bytes())).convert("RGB"))
    assert picture.shape[0] > 600
    assert picture.std() > 20  # something was drawn
    return picture


@pytest.mark.parametrize(
    "flags",
    [
        ["--ablation", "column", "--size", "19", "--stride", "16"],
        ["--ablation", "row", "--tokens", "black"],
        ["--ablation", "block", "--size", "75", "--stride", "32", "--patch", "23"],
        ["--ablation", "block", "--size", "75", "--positions", "random:40", "--seed", "3"],
        ["--crop", "65", "--resize", "65", "--size", "65", "--patch", "65"],
        ["--views", "mask-pair", "--covers", "32", "--masks", "3"],
        ["--views", "mask", "--covers", "16x48", "--masks", "2x4"],
        ["--views", "mask-pair", "--covers", "32", "--masks", "1x5"],
        ["--views", "mask", "--size", "160", "--stride", "32", "--wrap", "--patch", "20"],
    ],
    ids=[
        "column",
        "row",
        "block",
        "random",
        "no token grid",
        "pairs",
        "rectangles",
        "full height",
        "wrapped",
    ],
)
def test_geometry_alone(image, tmp_path, capsys, flags):
    draw(tmp_path, "--image", image, *flags)
    said = capsys.readouterr().out
    assert "the most of all its locations" in said
    assert f"picture: {tmp_path / 'picture.png'}" in said


def test_the_cifar_grid_counts_its_own_pixels(tmp_path, capsys):
    path = tmp_path / "small.png"
    path.write_bytes(png(random_images(1, side=32)[0]))
    draw(tmp_path, "--image", str(path), "--preprocess", "cifar10")
    assert "4x4 px" in capsys.readouterr().out


def test_votes_prediction_margin_and_rival(image, tiny_weights, tmp_path, capsys):
    draw(tmp_path, "--image", image, "--weights", str(tiny_weights), "--patch", "16")
    said = capsys.readouterr().out
    for part in ("Prediction: class ", "of 10 votes", "closest rival: class ", "at worst "):
        assert part in said
    assert "16x16 px at x = " in said


def test_only_the_allowed_classes_can_win_or_rival(image, tiny_weights, tmp_path, capsys):
    flags = ["--image", image, "--weights", str(tiny_weights), "--patch", "16"]
    draw(tmp_path, *flags, "--classes", "3,5")
    said = capsys.readouterr().out
    named = set(re.findall(r"(?:Prediction|rival): class (\d+)", said))
    assert named == {"3", "5"}


MASKS = ["--views", "mask-pair", "--covers", "32", "--masks", "2"]


def test_the_answer_over_masks_and_the_pair_that_fails(image, tiny_weights, tmp_path, capsys):
    flags = ["--image", image, "--weights", str(tiny_weights)]
    draw(tmp_path, *flags, *MASKS)
    said = capsys.readouterr().out
    for part in ("two-location, assumes a patch of at most 32x32 px", "of 10 views", "dashed"):
        assert part in said
    assert re.search(r"views? [\d, .]+ says? class \d: uncertified", said)
    draw(tmp_path, *flags, *MASKS, "--classes", "3,5")
    named = set(re.findall(r"(?:Answer:|says?) class (\d+)", capsys.readouterr().out))
    assert named <= {"3", "5"}
    draw(tmp_path, *flags, "--views", "mask", *MASKS[2:])
    assert "one-location, assumes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image", "absent.png"], "--image absent.png: cannot be read"),
        (["--size", "300"], "size=300"),
        (["--patch", "225"], "choose a smaller --patch"),
        (["--patch", "0"], "--patch 0"),
        (["--out", "picture.jpg"], "--out picture.jpg"),
        (["--weights", "absent.safetensors"], "absent.safetensors: no such file"),
        (["--resize", "big"], "--resize big"),
        (["--crop", "300"], "smaller than crop"),
        (["--preprocess", "cifar10"], "the model takes 32x32"),
        (["--preprocess", "model"], "which model?"),
        (["--model", "deit_tinny_patch16_224"], "did you mean deit_tiny"),
        (["--model", "swin_tiny_patch4_window7_224"], "use --tokens black"),
        (["--positions", "many"], "random:N"),
        (["--masks", "3"], "only views that hide masks have it"),
        (["--views", "mask-pair"], "--covers 32"),
        (["--views", "mask-pair", "--covers", "300"], "300x300"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_get_one_message_and_code_2(flags, message, image, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [] if flags[0] == "--image" else ["--image", image]
    assert main(["show", *given, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_image(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert main(["show", "--image", str(tmp_path / "a.png")]) == 2
    assert "not a JPEG, PNG or WebP image" in capsys.readouterr().err


def test_geometry_needs_no_torch(image, tmp_path):
    code = (
        "import sys\nfrom jobs.cli import main\n"
        f"assert main(['show', '--image', {image!r}, '--out', 'a.png', '--stride', '16']) == 0\n"
        "assert not {'torch', 'ray', 'timm', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def scene_of(votes: list[int], **changes) -> Scene:
    """A scene of eight bands of which six are drawn, with these votes."""
    ablation = Ablation(kind="column", size=3, stride=4, height=32, width=32)
    votes_v = np.array(votes)
    patch = Patch.square(2)
    given = {
        "pixels": random_images(1, 32)[0],
        "views": ablation,
        "patch": patch,
        "worst": smallest_margin(votes_v, ablation, patch, 5),
        "token_px": (4, 4),
        "drops": True,
        "votes_v": votes_v,
        "name_of": str,
        "title": "",
        "caption": "",
    }
    return Scene(**(given | changes))


def test_only_colours_that_are_drawn_are_explained():
    black = "Black in a kept token: pixels that the ablation hides."
    said = explained(scene_of([1] * 8), [0, 4])
    assert said == ["Votes for the prediction are blue.", black]
    said = explained(scene_of([1, 1, 1, 1, 1, 2, 2, 3]), [0, 5])
    assert said == ["Votes for the prediction are blue, for the rival pink.", black]
    said = explained(scene_of([1, 1, 1, 1, 1, 2, 2, 3], drops=False), [0, 7])
    assert said == ["Votes for the prediction are blue, others grey."]
    whole = Ablation(kind="column", size=4, stride=4, height=32, width=32)
    assert explained(scene_of([1] * 8, views=whole, votes_v=None), [0, 4]) == []


def test_panels_of_a_row_are_equally_large():
    figure = draw_figure(scene_of([1, 1, 1, 1, 1, 2, 2, 3]))
    figure.draw_without_rendering()
    places = [axes.get_window_extent() for axes in figure.axes if axes.get_title().count("\n")]
    top = max(place.y1 for place in places)
    images = [place for place in places if abs(place.y1 - top) < 2]
    assert len(images) == 6
    assert max(p.height for p in images) - min(p.height for p in images) < 2
