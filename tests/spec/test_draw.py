"""The picture of a wiring."""

import pytest
from conftest import tiny_spec
from PIL import Image

from randwire_det import UserError
from randwire_det.spec.draw import draw_network


def test_a_wiring_is_drawn_in_its_colours(tmp_path):
    draw_network(tiny_spec("er", p=0.2), tmp_path / "w.png")
    with Image.open(tmp_path / "w.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**20)}
    assert {(0x2F, 0x6F, 0xDB), (0xD6, 0x3A, 0x3A), (0xC9, 0xCE, 0xD6)} <= colours


@pytest.mark.parametrize("theta", [{"nodes": 1000, "k": 6}, {"nodes": 1700, "p": 0.0}])
def test_what_would_take_minutes_and_show_nothing_is_refused(tmp_path, theta):
    spec = tiny_spec("er" if theta.get("p") == 0.0 else "ws", **theta)
    with pytest.raises(UserError, match="5000 at most"):
        draw_network(spec, tmp_path / "w.png")
    assert not (tmp_path / "w.png").exists()
