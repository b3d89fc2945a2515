"""Diagrams show what they are given."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from lapa.report.figures import RED, Bars, plot_bars


def test_bars_have_a_panel_for_each_group_and_say_where_nothing_is() -> None:
    bars = Bars(("a", "b"), {"train": np.array([60.0, 40.0]), "test": np.array([100.0, 0.0])})
    empty = Bars(("a", "b"), {"train": np.array([100.0, 0.0]), "test": np.array([100.0, 0.0])})
    pictures = [Image.open(io.BytesIO(plot_bars({"x": each, "y": bars}, "share", "mine"))) for each in (bars, empty)]
    assert [picture.info["Title"] for picture in pictures] == ["mine", "mine"]
    red = [_count(picture, RED) for picture in pictures]
    assert red[0] == 0 < red[1]
    tall = Image.open(io.BytesIO(plot_bars({"x": bars, "y": bars, "z": bars}, "share")))
    assert tall.height > pictures[0].height
    assert "Title" not in tall.info


def _count(picture: Image.Image, colour: str) -> int:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return int((np.abs(np.asarray(picture.convert("RGB")).astype(int) - wanted).max(2) < 8).sum())
