"""Parameters: what is refused, in which words, and how profiles fill in what is left open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaletut import chapters
from scaletut.chapters import resolve, schemas
from scaletut.chapters.schemas import CHAPTERS, PROFILES, Finetune
from scaletut.errors import ParameterError


@pytest.fixture(autouse=True)
def _no_profile_set(monkeypatch):
    monkeypatch.delenv("SCALETUT_PROFILE", raising=False)


@pytest.mark.parametrize("schema", CHAPTERS.values())
def test_a_model_keeps_the_contract(schema):
    fields = schema.model_fields
    assert next(iter(fields)) == "profile"
    assert len(fields) <= schemas.MOST_PARAMETERS
    assert set(schema.by_profile) == set(PROFILES)
    for name, field in fields.items():
        assert field.description, name
        assert schemas.field_range(field), f"{name} tells no range"
        assert isinstance(field.default, (bool, int, float, str)), "plain literals only"
    for profile, values in schema.by_profile.items():
        assert set(values) <= set(fields), profile
        assert not any(fields[name].default for name in values), "only zero or empty can mean the profile's"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_profile_leaves_nothing_open(chapter, profile):
    chosen = chapters.settings(chapter, profile=profile)
    assert chosen.profile == profile
    own = CHAPTERS[chapter].by_profile[profile]
    assert {name: getattr(chosen, name) for name in own} == dict(own)
    assert all(own.values())


def test_given_values_win_over_the_profile():
    chosen = chapters.settings("finetune", profile="quick", epochs=7, label_budgets="3, 9")
    assert chosen.epochs == 7
    assert chosen.budgets == (3, 9)
    assert chosen.width == Finetune.by_profile["quick"]["width"]


def test_the_environment_replaces_the_default_profile_and_no_other(monkeypatch):
    monkeypatch.setenv("SCALETUT_PROFILE", "quick")
    assert chapters.settings("finetune", profile="laptop").profile == "quick"
    assert chapters.settings("finetune").profile == "quick"
    assert chapters.settings("finetune", profile="gpu").profile == "gpu"
    monkeypatch.setenv("SCALETUT_PROFILE", "quik")
    with pytest.raises(ParameterError, match=r"SCALETUT_PROFILE=quik.*'quick'"):
        chapters.settings("finetune")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"epoch": 3}, ["no parameter 'epoch'", "did you mean 'epochs'?"]),
        ({"epochs": -1}, ["epochs=-1 is out of range", "nearest valid: epochs=0"]),
        ({"epochs": 100000}, ["0 to 200 epochs", "nearest valid: epochs=200"]),
        ({"epochs": 2.6}, ["not a whole number", "nearest valid: epochs=3"]),
        ({"epochs": "abc"}, ["epochs='abc' is not a whole number", "0 to 200"]),
        ({"epochs": True}, ["not a whole number"]),
        ({"epochs": None}, ["not a whole number"]),
        ({"epochs": float("nan")}, ["not a whole number"]),
        ({"profile": "quik"}, ["profile=quik", "did you mean 'quick'?"]),
        ({"data": "cifer10"}, ["did you mean 'cifar10'?"]),
        ({"data": 3}, ["not text"]),
        ({"data": "zipf10:nois=0.1"}, ["nois", "noise"]),
        ({"data": "folder:"}, ["not an image set"]),
        ({"label_budgets": "10,5"}, ["must be positive and rise"]),
        ({"label_budgets": "10,x"}, ["whole numbers with commas"]),
        ({"epochs": -1, "widht": 3}, ["epochs=-1", "'width'"]),
    ],
)
def test_a_refusal_is_one_line_that_names_the_nearest(parameters, words):
    with pytest.raises(ParameterError) as caught:
        chapters.settings("finetune", **parameters)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_an_unknown_chapter_names_the_nearest():
    with pytest.raises(ParameterError, match="did you mean 'finetune'"):
        chapters.settings("fintune")


def test_words_from_the_command_line_take_the_models_types():
    parsed = resolve.parse_assignments("finetune", ["epochs=3", "data=zipf10:a=0.5,noise=0.1", "label_budgets=5"])
    assert parsed == {"epochs": 3, "data": "zipf10:a=0.5,noise=0.1", "label_budgets": "5"}
    for wrong in (["epochs"], ["=3"], ["epochs=3", "epochs=4"]):
        with pytest.raises(ParameterError):
            resolve.parse_assignments("finetune", wrong)


@given(
    st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=20).filter(
        lambda s: s not in Finetune.model_fields
    )
)
def test_no_unknown_name_ever_passes(name):
    with pytest.raises(ParameterError) as caught:
        chapters.settings("finetune", **{name: 1})
    assert any(repr(known) in str(caught.value) for known in Finetune.model_fields)


@given(st.integers())
def test_only_the_declared_range_passes_and_the_nearest_value_named_does(epochs):
    if 0 <= epochs <= 200:
        assert chapters.settings("finetune", epochs=epochs).epochs == (
            epochs or Finetune.by_profile["laptop"]["epochs"]
        )
        return
    with pytest.raises(ParameterError) as caught:
        chapters.settings("finetune", epochs=epochs)
    nearest = int(str(caught.value).rpartition("epochs=")[2])
    assert nearest == min(max(epochs, 0), 200)


def test_the_generated_parameters_cell_is_the_models_own():
    cell = schemas.parameters_cell(Finetune)
    names: dict = {}
    exec(cell, names)
    assert {name: names[name] for name in Finetune.model_fields} == {
        name: field.default for name, field in Finetune.model_fields.items()
    }
    assert "# epochs, 0 to 200; 0: the profile's" in cell
