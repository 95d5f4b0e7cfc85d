"""``examples/notebook.ipynb`` runs, offline, and prints what is stored in it."""

import contextlib
import io
import json

from tests.conftest import REPOSITORY


def test_the_notebook_prints_what_it_shows(tmp_path, monkeypatch):
    cells = json.loads((REPOSITORY / "examples/notebook.ipynb").read_text())["cells"]
    (tmp_path / "cifar10").symlink_to(REPOSITORY / "examples/cifar10")
    monkeypatch.chdir(tmp_path)
    shared: dict[str, object] = {"__name__": "__main__"}
    compared = 0
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), shared)
        shown = "".join("".join(output["text"]) for output in cell["outputs"])
        assert printed.getvalue() == shown, f"cell {number}"
        compared += bool(shown)
    assert compared >= 4
