"""A run is what determines its votes; a manifest that lies is refused, naming the field."""

import json

from hypothesis import given
from hypothesis import strategies as st
from pytest import mark, raises

from pipeline.runs.manifest import Execution, Manifest, ManifestError, canonical

IDENTITY = {
    "data": {"fingerprint": "abc", "limit": None},
    "model": {"name": "vit", "num_classes": 10},
    "ablation": {
        "kind": "column",
        "size": 4,
        "stride": 1,
        "height": 32,
        "width": 32,
        "pixel_scale": 7,
    },
}


def test_id_is_r_and_16_hex_digits_of_the_identity_alone():
    run_id = Manifest(identity=IDENTITY).run_id
    assert len(run_id) == 17
    assert run_id[0] == "r"
    int(run_id[1:], 16)
    assert Manifest(identity=IDENTITY, execution=Execution(actors=8)).run_id == run_id


@mark.parametrize(
    ("field", "value"),
    [("data.limit", 5), ("model.name", "deit"), ("ablation.stride", 2), ("ablation.size", 5)],
)
def test_every_field_of_the_identity_changes_the_id(field, value):
    changed = json.loads(json.dumps(IDENTITY))
    group, name = field.split(".")
    changed[group][name] = value
    assert Manifest(identity=changed).run_id != Manifest(identity=IDENTITY).run_id

    # An edited manifest is refused under the id of the original, naming the field.
    body = json.loads(Manifest(identity=IDENTITY).to_json())
    body["identity"] = changed
    with raises(ManifestError, match=field):
        Manifest.from_json(json.dumps(body), run_id=body["run_id"], where="m.json")


def test_round_trip():
    manifest = Manifest(identity=IDENTITY, execution=Execution(units=3))
    again = Manifest.from_json(manifest.to_json(), run_id=manifest.run_id, where="m.json")
    assert again == manifest
    assert len(again.defense.views) == 32
    assert again.defense.network.num_classes == 10


def test_a_run_whose_votes_ended_early_is_refused():
    old = Manifest(identity=IDENTITY | {"decide": {"threats": ["2x2"], "rules": ["exact"]}})
    with raises(ManifestError, match=r"ended early \(--decide.*; delete the run and vote"):
        Manifest.from_json(old.to_json(), run_id=old.run_id, where="m.json")


@mark.parametrize("data", [b"", b"[]", b"{}", b'{"identity": 1, "execution": 2, "checksums": 3}'])
def test_garbage_is_refused(data):
    with raises(ManifestError, match=r"m\.json"):
        Manifest.from_json(data, run_id="r0", where="m.json")


def test_a_manifest_filed_under_another_id_is_refused():
    manifest = Manifest(identity=IDENTITY)
    with raises(ManifestError, match="run_id"):
        Manifest.from_json(manifest.to_json(), run_id="r" + "0" * 16, where="m.json")


def test_an_old_run_on_several_device_models_is_refused():
    manifest = Manifest(identity={**IDENTITY, "numerics": {"device_model": "mixed"}})
    with raises(ManifestError, match=r"m\.json: votes of several device models"):
        Manifest.from_json(manifest.to_json(), run_id=manifest.run_id, where="m.json")


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.none() | st.text(max_size=3)))
def test_canonical_text_ignores_order(value):
    reversed_ = dict(reversed(list(value.items())))
    assert canonical(value) == canonical(reversed_)
