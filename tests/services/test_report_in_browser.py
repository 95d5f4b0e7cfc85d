"""The report in Debian's Chromium: by day and by night, on a desk and on a phone, and on paper."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.preprocess import Preprocess
from models.views.ablations import Ablation
from pipeline.analysis import open_run
from pipeline.config import ClaimsConfig
from pipeline.report.page.writing import page_of
from pipeline.scoring.certify import certify_votes
from pipeline.sources.base import SourceOptions
from pipeline.sources.listing import list_images
from tests.conftest import REPOSITORY, png, random_images, write_shard
from tests.services.chromium import Chromium, chromium

sys.path.append(str(REPOSITORY / "tests/pipeline/questions"))
from tests.pipeline.analysis.stored_runs import write_run

DESK, PHONE = 1280, 390
IMAGES, CLASSES = 60, 40


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A page of one run and one of two, with pictures, and ids and classes of every length."""
    folder = tmp_path_factory.mktemp("report")
    long = "a-folder-with-a-very-long-name-and-no-place-to-break-it/" * 3
    names = [f"{long if n % 2 else ''}{n:03d}" for n in range(IMAGES)]
    pixels = random_images(IMAGES, 32)
    samples = {f"{name}.png": png(image) for name, image in zip(names, pixels, strict=True)}
    shard = write_shard(folder / "shard.tar", samples)
    listing = list_images(str(shard), SourceOptions(), None)
    preprocess = Preprocess(
        resize=None, crop=32, interpolation="nearest", mean=(0, 0, 0), std=(1, 1, 1)
    )
    truth = np.random.default_rng(0).integers(0, CLASSES, IMAGES)
    runs = []
    for model, kind, stride in (("one", "column", 1), ("two", "block", 4)):
        ablation = Ablation(kind=kind, size=8, stride=stride, height=32, width=32)
        rng = np.random.default_rng(len(runs))
        noise = rng.random((IMAGES, len(ablation))) < rng.random((IMAGES, 1))
        votes = np.where(noise, rng.integers(0, CLASSES, noise.shape), truth[:, None])
        run_id = write_run(
            folder / "out",
            votes,
            truth.tolist(),
            ids=listing.table["image_id"].to_pylist(),
            model=model,
            ablation=ablation,
            classes=CLASSES,
            errors=(4,),
            unit_images=20,
            data={"kind": "webdataset", "fingerprint": listing.fingerprint, "image_column": None},
            preprocess=preprocess.to_dict(),
        )
        runs.append(open_run(folder / "out", run_id))
        certify_votes(runs[-1].store, ClaimsConfig(patch=(2, 4, 5)))
    paths = {}
    for name, chosen in (("one", runs[:1]), ("both", runs)):
        paths[name] = folder / f"{name}.html"
        paths[name].write_bytes(page_of(chosen, data=str(shard)))
    return paths


@pytest.mark.parametrize("name", ["one", "both"])
@pytest.mark.parametrize("dark", [False, True], ids=["day", "night"])
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_it_opens_without_complaint_and_fits(browser, pages, name, width, dark):
    browser.open(pages[name], width, dark=dark, phone=width == PHONE)
    assert browser.complaints == []
    assert {one.split(",")[0] for one in browser.requests[1:]} == {"data:image/png;base64"}
    assert browser.requests[0].startswith("file:")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    # Nothing sticks out that does not scroll in a box of its own.
    outside = browser.ask(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, figure > svg') "
        f"&& e.getBoundingClientRect().right > {width}).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    # Letters of drawings, in pixels of the screen.
    sizes = browser.ask(
        "[...document.querySelectorAll('figure > svg')].map(e => e.getBoundingClientRect().width "
        "/ e.viewBox.baseVal.width * 9.5)"
    )
    assert len(sizes) >= 4
    assert min(sizes) > 9
    pictures = (
        "[...document.querySelectorAll('.picture')].map(e => e.getBoundingClientRect().width)"
    )
    assert min(browser.ask(pictures)) > 60


@pytest.mark.parametrize("dark", [False, True], ids=["day", "night"])
def test_everything_stands_out_from_its_ground(browser, pages, dark):
    """WCAG: 4.5 for text, 3 for what is drawn."""
    browser.open(pages["one"], DESK, dark=dark)

    def shine(variable: str) -> float:
        colour = browser.ask(
            "(() => { const e = document.body.appendChild(document.createElement('i')); "
            f"e.style.color = 'var({variable})'; const c = getComputedStyle(e).color; e.remove(); "
            "return c.match(/[0-9.]+/g).slice(0, 3).map(Number); })()"
        )
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
            for c in (value / 255 for value in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(variable: str) -> float:
        one, other = shine(variable), shine("--paper")
        return (max(one, other) + 0.05) / (min(one, other) + 0.05)

    assert contrast("--ink") > 7
    assert min(contrast(text) for text in ("--quiet", "--link")) > 4.5
    assert min(contrast(f"--series-{n}") for n in (1, 2, 3)) > 3
    whole = Image.open(io.BytesIO(browser.screenshot(whole=False))).convert("L")
    assert (np.asarray(whole).mean() < 128) == dark


def test_tables_sort_at_a_click_and_back(browser, pages):
    browser.open(pages["one"], DESK)
    column = (
        "[...document.querySelectorAll('table.sortable tbody tr')]"
        ".map(row => Number(row.cells[{}].dataset.sort ?? row.cells[{}].textContent))"
    )
    heads = browser.ask(
        "[...document.querySelectorAll('table.sortable thead th')].map(h => h.textContent.trim())"
    )
    for name in ("smoothed", "4x4 px", "images"):
        place = heads.index(name)
        before = browser.ask(column.format(place, place))
        assert len(before) > 20
        head = f"document.querySelectorAll('table.sortable thead th')[{place}]"
        for order, said in ((False, "ascending"), (True, "descending")):
            browser.ask(f"{head}.querySelector('button').click()")
            assert browser.ask(column.format(place, place)) == sorted(before, reverse=order)
            assert browser.ask(f"{head}.getAttribute('aria-sort')") == said
    names = (
        "[...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[0].innerText)"
    )
    browser.ask("document.querySelector('table.sortable thead button').click()")
    sorted_names = browser.ask(names)
    assert sorted_names == sorted(sorted_names, key=lambda text: int(text.split()[-1]))


def test_a_script_that_is_not_its_own_does_not_run(browser, pages, tmp_path):
    page = tmp_path / "tampered.html"
    page.write_bytes(
        pages["one"].read_bytes().replace(b"</main>", b"<script>document.title='x'</script></main>")
    )
    browser.open(page, DESK)
    assert browser.ask("document.title").startswith("Certified patch robustness")
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)


def test_without_scripts_the_tables_are_there(browser, pages):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["one"], DESK)
        assert browser.ask("document.querySelectorAll('button').length") == 0
        assert browser.ask("document.querySelectorAll('table.sortable tbody tr').length") > 20
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_what_scrolls_says_so_at_its_edge(browser, pages):
    """The last pixels of a table wider than a phone are shaded, until it is scrolled to its end."""
    browser.open(pages["one"], PHONE, phone=True)
    box = "document.querySelector('.scroll.tall')"
    assert browser.ask(f"{box}.scrollWidth > {box}.clientWidth")

    def shade() -> int:
        """Darkest pixel beside that edge, in a row without letters."""
        browser.ask(f"{box}.scrollIntoView()")
        right, top, bottom = browser.ask(
            f"(r => [r.right, r.top, r.bottom])({box}.getBoundingClientRect())"
        )
        shot = Image.open(io.BytesIO(browser.screenshot(whole=False))).convert("L")
        edge = np.asarray(shot)[int(top) + 60 : min(int(bottom), 800), int(right) - 3]
        return int(np.median(edge))

    more = shade()
    browser.ask(f"{box}.scrollLeft = 10000")
    assert shade() > more + 10


def test_it_prints(browser, pages):
    browser.open(pages["one"], DESK, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print")
    shown = "[...document.querySelectorAll('details')].map(e => getComputedStyle(e).display)"
    assert set(browser.ask(shown)) == {"none"}, "nothing of what is closed"
    assert browser.ask("getComputedStyle(document.querySelector('.manifest')).display") == "none"
    browser.ask("document.querySelector('.manifest details').open = true")
    assert browser.ask("getComputedStyle(document.querySelector('.manifest')).display") == "block"
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    assert 2 <= printed.count(b"/Type /Page\n") <= 12
