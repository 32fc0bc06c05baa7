"""The page of a run: complete, true to the archive, and safe from whatever names hold."""

import base64
import json
import re
import shutil
import subprocess
import sys
import tracemalloc
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pullback import archive, jobs
from pullback.archive.atomic import write_text
from pullback.archive.origin import Origin
from pullback.archive.shards import list_shards
from pullback.archive.writing import write
from pullback.report import page, write_report
from pullback.report.contents import Contents
from tests.archive.test_run import columns, make_manifest, make_run
from tests.shell import names, refused, run

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
HOSTILE = [
    "</td></table><script>alert(1)</script>.png",
    "\"><img src=x onerror='alert(1)'>.png",
    "{{ 7 * 7 }}{% raw %}.png",
    "a\x1b[2J\u202egnp.png",
    "plain.png",
]


class Page(HTMLParser):
    """Tags with their attributes, the rows of the table, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.text, self.is_cell = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.is_cell = True

    def handle_endtag(self, tag):
        self.is_cell = self.is_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.is_cell:
            self.rows[-1][-1] += data

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def cells(self, column):
        return [row[column].strip() for row in self.rows[1:]]


def read_page(path):
    return Page(path.read_text(encoding="utf-8"))


def make_hostile_run(folder):
    """Names of files, data and encoder, and reasons of failures, that try to be more than text."""
    manifest = make_manifest(count=5)
    manifest["data"] |= {"name": HOSTILE[0], "event_shape": [1, 2, 4]}
    manifest["encoder"]["factory"] = HOSTILE[1]
    manifest["sizes"]["character"] = max(len(name.encode()) for name in HOSTILE)
    (folder / "shards").mkdir(parents=True)
    write_text(folder / "manifest.json", json.dumps(manifest))
    table = columns() | {"file": np.array([name.encode() for name in HOSTILE])}
    origin = Origin([{"command": HOSTILE[1], "versions": 3}], "0123", {"1": HOSTILE[0]})
    for shard in list_shards(folder, manifest):
        part = {name: array[shard.start : shard.stop] for name, array in table.items()}
        write(shard.path, shard.layout, [part], origin)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "run"
    make_hostile_run(folder)
    return write_report(folder, command=f"pullback report '{HOSTILE[1]}'")


def test_names_stay_text(hostile):
    found = read_page(hostile)
    assert len(found.named("script")) == 1
    assert len(found.named("table")) == 1
    assert all(i["src"].startswith("data:image/png;base64,") for i in found.named("img"))
    assert not [a for _, attributes in found.tags for a in attributes if a.startswith("on")]
    cells = found.cells(1)
    assert cells[:3] == HOSTILE[:3]
    assert cells[3] == r"a\x1b[2J\u202egnp.png"


def test_the_page_asks_for_nothing(hostile):
    text = hostile.read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    links = re.findall(r'\b(?:src|href)="([^"]*)"', text)
    assert all(link.startswith(("data:", "#")) for link in links)


def test_identifiers_are_there_once(hostile):
    identifiers = [a["id"] for _, a in read_page(hostile).tags if "id" in a]
    assert len(identifiers) == len(set(identifiers)) > 20


def test_the_table_holds_what_the_archive_holds(tmp_path):
    table = make_run(tmp_path, count=7)
    found = read_page(write_report(tmp_path))
    assert found.cells(0) == [str(i) for i in range(7)]
    assert found.cells(2) == [str(label) for label in table["label"]]
    for i, cell in enumerate(found.cells(3)):
        value, error = cell.split(" ± ")
        assert float(value) == pytest.approx(table["spectral_radius"][i], rel=1e-3)
        assert float(error) == pytest.approx(table["residual_norm"][i, 0], rel=0.05)
    assert "7 of 7 images have all eigenpairs converged" in found.text


def test_a_median_is_one_number_wherever_it_stands(tmp_path):
    """Of an even number of images as well: in the summary, and above the diagram."""
    table = make_run(tmp_path, count=6)
    text = read_page(write_report(tmp_path)).text
    for name in ("spectral_radius", "entropy"):
        lower = np.sort(table[name])[2]
        assert f"median {lower:.4g}" in text
        assert re.search(rf"(?<!median ){lower:.4g}( nat)?\s*median; 5 to 95 %", text)


def test_a_run_on_a_disk_to_read_from_is_shown_elsewhere(tmp_path):
    make_run(tmp_path / "run", count=7)
    before = names(tmp_path / "run")
    assert run("report", tmp_path / "run", "--out", tmp_path / "new" / "page", "--figures") == 0
    assert names(tmp_path / "run") == before
    assert names(tmp_path / "new" / "page") == ["figures", "report.html"]


def test_an_unfinished_run_shows_what_there_is(tmp_path):
    make_run(tmp_path, count=7)
    (tmp_path / "shards" / "part-000001.h5").unlink()
    assert read_page(write_report(tmp_path)).cells(0) == ["0", "1", "4", "5", "6"]
    for shard in (tmp_path / "shards").iterdir():
        shard.unlink()
    with pytest.raises(ValueError, match="no finished shard yet"):
        write_report(tmp_path)


def test_of_many_images_a_part_is_shown_and_said(tmp_path, monkeypatch):
    table = make_run(tmp_path, count=60, shard_size=25)
    monkeypatch.setattr(page, "_MOST_ROWS", 9)
    found = read_page(write_report(tmp_path))
    shown = {int(cell) for cell in found.cells(0)}
    order = np.argsort(-table["spectral_radius"])
    assert len(shown) == 9
    assert shown >= {*order[:3].tolist(), *order[-3:].tolist()}
    assert "9 of 60 images: the 3 with the largest ρ" in found.text


def test_images_and_directions_of_the_extremes(tmp_path, monkeypatch, capsys):
    """The least robust come first, each with its own pixels."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 2, 4), dtype=np.uint8)
    np.savez("images.npz", images=pixels, labels=np.arange(5))
    images = jobs.open_images("images.npz")
    manifest = make_manifest(count=5)
    manifest["data"] = {"name": "images.npz", "count": 5, "event_shape": [1, 2, 4], **images.facts}
    (tmp_path / "run" / "shards").mkdir(parents=True)
    write_text(tmp_path / "run" / "manifest.json", json.dumps(manifest))
    table = columns()
    for shard in list_shards("run", manifest):
        part = {name: array[shard.start : shard.stop] for name, array in table.items()}
        write(shard.path, shard.layout, [part], Origin([{}]))
    assert run("report", "run", "--data", "images.npz", "--extremes", 2, "--figures") == 0
    found = read_page(tmp_path / "run" / "report.html")
    assert "pullback report run --data images.npz --extremes 2 --figures" in found.text
    shown = [a for a in found.named("img") if a["alt"].startswith("image")]
    order = np.argsort(-table["spectral_radius"])
    assert [a["alt"] for a in shown] == [f"image {i}" for i in [*order[:2], *order[:-3:-1]]]
    encoded = base64.b64decode(shown[0]["src"].partition(",")[2])
    (tmp_path / "shown.png").write_bytes(encoded)
    np.testing.assert_array_equal(np.asarray(Image.open("shown.png")), pixels[order[0], 0])
    assert len([a for a in found.named("img") if "direction" in a["alt"]]) == 4
    # Four diagrams in two formats, and two pictures of each image.
    assert len(list((tmp_path / "run" / "figures").iterdir())) == 4 * 2 + 2 * 4

    np.savez("images.npz", images=pixels[::-1], labels=np.arange(5))
    status = run("report", "run", "--data", "images.npz")
    refused(capsys, status, "holds other images than the run: sha256 was")


def test_a_run_of_which_nothing_could_be_scored(tmp_path):
    make_run(tmp_path, count=3)
    manifest = archive.read_manifest(tmp_path)
    for shard in list_shards(tmp_path, manifest):
        part = {name: array[shard.start : shard.stop] for name, array in columns(3).items()}
        for name in archive.COLUMNS:
            if part[name].dtype.kind == "f":
                part[name] = np.full_like(part[name], np.nan)
        part["failed"] = np.ones_like(part["failed"])
        write(
            shard.path, shard.layout, [part], Origin([{}], "0", {"0": "the encoder is not finite"})
        )
    found = read_page(write_report(tmp_path))
    assert found.cells(7) == ["failed"] * 3
    assert "image 0: the encoder is not finite" in found.text


def test_without_the_extra_one_sentence(tmp_path):
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from pullback import cli; sys.exit(cli.main(['report', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'pullback[report]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser(hostile, tmp_path, width):
    """It fits, sorts and searches, and no name of a file is run."""
    text = hostile.read_text(encoding="utf-8")
    script = (page._HERE / "page.js").read_text(encoding="utf-8")
    steps = """
        document.querySelectorAll("th button")[3].click();
        const search = document.querySelector("#search");
        const find = (text) => {
            search.value = text; search.dispatchEvent(new Event("input"));
            return Array.from(document.querySelectorAll("tbody tr:not([hidden])"),
                (row) => row.cells[0].textContent);
        };
        document.title = [document.documentElement.scrollWidth, innerWidth,
            ...find("4"), ...find("PNG")].join(" ");
    """
    text = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", text)
    (tmp_path / "page.html").write_text(text.replace(script, script + steps), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--window-size={width},900", (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (title,) = re.findall(r"<title>(.*)</title>", done.stdout)
    scroll, inner, fourth, *order = map(int, title.split())
    assert scroll <= inner
    assert fourth == 4  # and no other, whatever digits its scores have
    np.testing.assert_array_equal(order, np.argsort(columns()["spectral_radius"]))


def test_what_is_kept_of_a_run_does_not_grow_with_k(tmp_path, monkeypatch):
    """But for a share of the spectra: what is kept of a shard holds no whole column in memory."""
    make_run(tmp_path, count=4096, shard_size=256, k=64)
    monkeypatch.setattr("pullback.report.contents._MOST_SPECTRA", 410)
    tracemalloc.start()
    contents = Contents.of(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = contents.spectra.nbytes + sum(column.nbytes for column in contents.scores.values())
    # Of a column of all pairs, all shards have 2²⁰ bytes, and one has 2¹⁶.
    assert peak < 2 * kept + 2**19
