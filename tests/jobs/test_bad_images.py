"""Images of arrays and data sets that are not finite, or cannot be read; --skip-bad goes on."""

import numpy as np
import pytest

from pullback import archive
from pullback.jobs import FolderOptions, open_images
from tests.shell import refused, score

ITEMS = """
import numpy as np

class Items:
    def __init__(self):
        self.images = np.load("data.npz")["images"]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index == 13:
            raise OSError("the file is gone")
        if index == 20:
            return self.images[index][:3], 1
        return np.where(index == 7, np.nan, self.images[index]).astype(np.float32), 1
"""


@pytest.mark.parametrize("bad", [[0], [7, 12], [0, 1, 2, 29]])
def test_images_that_are_not_finite(place, capsys, bad):
    assert score("declared", "whole") == 0
    images = np.load("data.npz")["images"]
    images[bad, 1, 1] = np.resize([np.nan, np.inf, -np.inf], len(bad))
    np.save("bad.npy", images)
    message = f"image {bad[0]} of bad.npy holds NaN or infinite values; --skip-bad notes such"
    refused(capsys, score("declared", "run", data="bad.npy"), message)
    assert score("declared", "run", "--skip-bad", data="bad.npy") == 3
    check("run", bad)


def test_items_of_a_data_set(place, capsys, caplog):
    assert score("declared", "whole") == 0
    (place / "items.py").write_text(ITEMS)
    assert score("declared", "run", "--skip-bad", data="items.py:Items") == 3
    check("run", [7, 13, 20])
    for message in (
        "image 7 could not be scored: image 7 of items.py:Items holds NaN",
        "image 13 could not be scored: item 13 of items.py:Items cannot be read: OSError",
        "image 20 could not be scored: item 20 of items.py:Items is float32 of shape (3, 4)",
    ):
        assert message in caplog.text


def test_first_items_of_a_data_set(place):
    assert score("declared", "whole") == 0
    (place / "items.py").write_text(ITEMS.replace("index == 13", "index in (0, 1, 3)"))
    assert score("declared", "run", "--skip-bad", data="items.py:Items") == 3
    check("run", [0, 1, 3, 7, 20])
    images = open_images("items.py:Items", FolderOptions(skip_bad=True))
    with pytest.raises(ValueError, match=r"item 20 of .* but item 2 is float32 of shape"):
        images.read(20, 21)
    (place / "items.py").write_text(ITEMS.replace("index == 13", "True"))
    with pytest.raises(ValueError, match=r"none of the items of items\.py:Items can be read"):
        open_images("items.py:Items", FolderOptions(skip_bad=True))


def check(run, bad):
    """These have failed, and the others score as they do by themselves."""
    whole, columns = archive.read("whole"), archive.read(run)
    np.testing.assert_array_equal(np.flatnonzero(columns["failed"]), bad)
    assert np.isnan(columns["eigenvalues"][bad]).all()
    good = columns["failed"] == 0
    np.testing.assert_allclose(
        columns["eigenvalues"][good], whole["eigenvalues"][good], rtol=1e-5, atol=1e-7
    )
