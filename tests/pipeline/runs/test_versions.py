"""What a copy of the code alone, not installed, says of its versions."""

from importlib.metadata import PackageNotFoundError, version

from pytest import fixture

from pipeline.runs import versions as revision
from pipeline.training.checkpoint import provenance


@fixture
def not_installed(monkeypatch):
    def without_patchcert(name):
        if name == "patchcert":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(revision, "version", without_patchcert)


def test_installed_program_says_its_version():
    assert revision.program_version() == version("patchcert")
    assert provenance()["patchcert"] == version("patchcert")


def test_copy_of_the_code_says_that_it_is_one(not_installed):
    assert "not installed" in revision.program_version()


def test_training_from_a_copy_of_the_code_still_writes_its_weights(not_installed):
    made = provenance()
    assert "patchcert" not in made
    assert made["torch"] == version("torch")
