"""The mean of weight files: its values, its provenance, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.cli import main
from models.errors import WeightsError
from models.networks.averaging import average_weights
from models.networks.weights import WeightsCard, read_card, sha256_of
from models.preprocess import PRESETS

CARD = WeightsCard(
    model="test_vit",
    num_classes=2,
    classes=("cat", "dog"),
    preprocess=PRESETS["cifar10"],
    ablation={"kind": "column", "size": 4, "stride": 1},
    tokens="drop",
)


def write(path, state, card=CARD, **recipe):
    save_file(state, path, metadata=replace(card, recipe=recipe).to_metadata())
    return str(path)


def one(value, dtype=torch.float32):
    return {"a": torch.full((2, 3), value, dtype=dtype), "b": torch.tensor([value], dtype=dtype)}


def test_the_command_writes_the_mean_and_where_it_comes_from(tmp_path, capsys):
    seeds = (1.0, 2.0, 6.0)
    paths = [write(tmp_path / f"{seed}.safetensors", one(seed), seed=seed) for seed in seeds]
    out = tmp_path / "mean.safetensors"
    assert main(["average", *paths, "--out", str(out)]) == 0
    assert "the mean of 3 files of test_vit, 2 classes" in capsys.readouterr().out
    mean = load_file(out)
    assert {name: value.flatten()[0].item() for name, value in mean.items()} == {"a": 3, "b": 3}
    card = read_card(str(out))
    assert replace(card, recipe={}) == CARD
    assert [part["sha256"] for part in card.recipe["averaged"]] == [sha256_of(p) for p in paths]
    assert [part["recipe"] for part in card.recipe["averaged"]] == [
        {"seed": seed} for seed in seeds
    ]


def test_the_recipe_of_a_common_beginning_is_told_once(tmp_path):
    path = write(tmp_path / "0.safetensors", one(1.0), seed="the first")
    for generation in range(1, 6):
        start = read_card(path).origin(path, sha256_of(path))
        ends = [
            write(tmp_path / f"{generation}{end}.safetensors", one(1.0), init=start, seed=end)
            for end in "ab"
        ]
        path = str(tmp_path / f"{generation}.safetensors")
        assert main(["average", *ends, "--out", path]) == 0
    recipe = read_card(path).recipe
    said = json.dumps(recipe)
    assert said.count("the first") == 1
    assert said.count('"seed": "a"') == said.count('"seed": "b"') == 5
    first, second = (part["recipe"]["init"] for part in recipe["averaged"])
    assert second == {"file": "4.safetensors", "sha256": first["sha256"]}


def test_sums_are_taken_beyond_the_precision_of_the_files(tmp_path):
    """float16 has no sum above 65504."""
    values = [65504.0, 65504.0, 65440.0]
    paths = [
        write(tmp_path / f"{at}.safetensors", one(value, torch.float16))
        for at, value in enumerate(values)
    ]
    mean, _ = average_weights(paths)
    assert mean["a"].dtype == torch.float16
    expected = torch.tensor(sum(values) / 3, dtype=torch.float64).to(torch.float16)
    assert torch.equal(mean["b"], expected[None])


def test_the_mean_of_precise_weights_can_be_small(tmp_path):
    paths = [write(tmp_path / f"{value}.safetensors", one(value)) for value in (0.1, 0.2)]
    out = str(tmp_path / "mean.safetensors")
    assert main(["average", *paths, "--save-as", "float16", "--out", out]) == 0
    expected = torch.tensor([0.15]).to(torch.float16)
    assert torch.equal(load_file(out)["b"], expected)


@pytest.mark.parametrize(
    ("other", "card", "message"),
    [
        (one(1.0), replace(CARD, tokens="black"), "tokens: drop, there black"),
        (one(1.0), replace(CARD, num_classes=3), "num_classes: 2, there 3"),
        ({"a": torch.ones(2, 3)}, CARD, r"b has the shape None, in the first file \(1,\)"),
        (one(1.0) | {"c": torch.ones(1)}, CARD, "c has the shape"),
        ({"a": torch.ones(3, 2), "b": torch.ones(1)}, CARD, r"a has the shape \(3, 2\)"),
    ],
)
def test_files_of_different_networks_have_no_mean(tmp_path, other, card, message):
    paths = [
        write(tmp_path / "first.safetensors", one(1.0)),
        write(tmp_path / "other.safetensors", other, card),
    ]
    with pytest.raises(WeightsError, match=f"other.safetensors: .*{message}"):
        average_weights(paths)


def test_statistics_of_batches_have_no_mean(tmp_path):
    state = one(1.0) | {"bn.running_mean": torch.zeros(3)}
    path = write(tmp_path / "first.safetensors", state)
    with pytest.raises(WeightsError, match=r"bn.running_mean .* without batch normalization"):
        average_weights([path, path])


def test_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys):
    path = write(tmp_path / "first.safetensors", one(1.0))
    for arguments, message in (
        ([path, "--out", str(tmp_path / "out.safetensors")], "a mean takes two or more"),
        ([path, path, "--out", path], "exists already"),
        ([path, "absent.safetensors", "--out", "o.safetensors"], "absent.safetensors: no such"),
    ):
        assert main(["average", *arguments]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert "Traceback" not in said
    assert [found.name for found in tmp_path.iterdir()] == ["first.safetensors"]


def test_a_mean_that_is_not_finite_is_refused(tmp_path, capsys):
    good, out = write(tmp_path / "a.safetensors", one(1e6)), str(tmp_path / "mean.safetensors")
    bad = write(tmp_path / "b.safetensors", one(float("nan")))
    assert main(["average", good, bad, "--out", out]) == 2
    assert "b.safetensors: 2 of 2 tensors are not finite" in capsys.readouterr().err
    assert main(["average", good, good, "--save-as", "float16", "--out", out]) == 2
    assert "--save-as float32" in capsys.readouterr().err
    assert main(["average", good, good, "--save-as", "float32", "--out", out]) == 0
