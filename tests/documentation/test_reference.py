"""The page on the Python interface says what the docstrings say."""

from tests.conftest import REPOSITORY
from tests.documentation.reference import reference


def test_the_page_is_what_the_docstrings_say():
    written = (REPOSITORY / "docs/api.md").read_text()
    assert written == reference(), "python -m tests.documentation.reference > docs/api.md"
