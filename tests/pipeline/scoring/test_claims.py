"""Questions: defaults, what is refused before anything is computed, and their way through JSON."""

import json

from pytest import mark, raises

from models.views.ablations import Ablation
from pipeline.certificates import Threat
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.runs.defense import Defense, Network, Voting
from pipeline.scoring.claims import Alert, Claim, Claims, resolve_claims

SHAPE = {"size": 4, "stride": 2, "height": 32, "width": 32}


def voted(kind="column", draws=None, theta=None, gaps=False, **changes):
    return Defense(
        preprocess=None,
        network=Network(name="x", num_classes=10),
        views=Ablation(**{"kind": kind, **SHAPE, **changes}),
        tokens="drop",
        voting=Voting(draws=draws, theta=theta, gaps=gaps),
    )


def asked(questions):
    return {(c.rule, str(c.threat), c.top_k, c.stride, c.confidence) for c in questions.claims}


def test_defaults_are_the_papers_patches_under_both_rules():
    expected = {
        (rule, f"{side}x{side}", 1, 2, None) for rule in ("exact", "uniform") for side in (2, 4, 5)
    }
    assert asked(resolve_claims(voted(), ClaimsConfig())) == expected
    assert resolve_claims(voted(), ClaimsConfig()).alerts == frozenset()


def test_places_default_to_the_rules_that_speak_of_them():
    found = asked(resolve_claims(voted(), ClaimsConfig(patch=(2,), top_k=(1, 5))))
    assert found == {
        ("exact", "2x2", 1, 2, None),
        ("uniform", "2x2", 1, 2, None),
        ("exact", "2x2", 5, 2, None),
    }


def test_strides_and_alerts():
    claims = ClaimsConfig(patch=(2, "area:6"), rule=("exact",), detect=True)
    found = resolve_claims(voted(), claims, stride=8)
    assert {claim.stride for claim in found.claims} == {8}
    assert found.alerts == {Alert(Threat.square(2), 8), Alert(Threat(area=6), 8)}
    own = resolve_claims(voted(), claims, stride=2)
    assert own == resolve_claims(voted(), claims)


def test_random_positions_have_no_stride():
    found = resolve_claims(voted(stride=1, random=9, seed=3), ClaimsConfig(patch=(2,)))
    assert {claim.stride for claim in found.claims} == {None}
    drawn = resolve_claims(voted(stride=1, draws=50), ClaimsConfig(patch=(2,), confidence=0.99))
    assert asked(drawn) == {("randomized", "2x2", 1, None, 0.99)}


@mark.parametrize(
    ("of", "claims", "stride", "message"),
    [
        (voted(), {"patch": (33,)}, None, "choose a smaller --patch"),
        (voted(), {"rule": ("best",)}, None, "no such rule; choose uniform, exact"),
        (voted(), {"rule": ("randomized",)}, None, "choose uniform, exact"),
        (voted(), {"patch": ("3of2",)}, None, "use the uniform rule"),
        (voted("block"), {"patch": ("2of2",)}, None, "use the uniform rule"),
        (voted(), {"patch": ("2of2",), "detect": True}, None, "detection is computed for one"),
        (voted(), {"patch": ("2of2",), "top_k": (5,)}, None, "top-k is computed for one"),
        (voted(), {"rule": ("uniform",), "top_k": (5,)}, None, "choose exact"),
        (voted(), {"top_k": (10,)}, None, "choose 1 to 9 places"),
        (voted(), {}, 3, "choose a multiple of 2"),
        (voted(), {}, 64, "stride=64"),
        (voted(stride=1, random=9), {}, 2, "random positions answer for no stride"),
        (voted(stride=1, draws=50), {}, 2, "random positions answer for no stride"),
        (voted(stride=1, draws=50), {"detect": True}, None, "--randomized drew some"),
        (voted(stride=1, draws=50), {"top_k": (2,)}, None, "choose top_k=1"),
        (voted(stride=1, draws=50), {"rule": ("exact",)}, None, "choose randomized"),
        (voted(), {"tau": (0.5,)}, None, "vote with --gaps"),
        (voted(theta=0.3, gaps=True), {"tau": (0.5,)}, None, "sets of classes .--voting threshold"),
    ],
)
def test_what_cannot_be_answered_is_refused(of, claims, stride, message):
    with raises(ConfigError, match=message):
        resolve_claims(of, ClaimsConfig(**claims), stride)


@mark.parametrize(
    ("claims", "message"),
    [
        ({"patch": ()}, "--patch is empty"),
        ({"patch": (0,)}, "--patch 0x0"),
        ({"patch": ("16y48",)}, "--patch '16y48': write"),
        ({"top_k": ()}, "--top-k is empty"),
        ({"top_k": (0,)}, "--top-k 0"),
        ({"rule": ()}, "--rule is empty"),
    ],
)
def test_requests_that_mean_nothing(claims, message):
    with raises(ConfigError, match=message):
        ClaimsConfig(**claims)


def test_questions_survive_json():
    questions = Claims(
        frozenset(
            {
                Claim("exact", Threat.parse("2of4"), 1, 2),
                Claim("exact", Threat(area=7), 5, None),
                Claim("randomized", Threat.square(3), 1, None, 0.999),
            }
        ),
        frozenset({Alert(Threat.square(3), 2), Alert(Threat(area=7), None)}),
    )
    assert Claims.from_summary(json.loads(questions.to_json())) == questions
    assert Claims() <= questions
    assert not questions <= Claims()
    assert Claims() | questions == questions
