import pytest
import torch

from loragen.bases import devices
from loragen.bases.devices import choose_dtype


def test_a_named_precision_is_taken():
    assert choose_dtype("float32") == torch.float32
    assert choose_dtype("bfloat16") == torch.bfloat16


@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_auto_takes_the_faster_precision(monkeypatch, faster):
    clock = [0.0]
    calls = []

    def linear(x, _w):
        calls.append(x.dtype)
        # One slow call of the faster one, as where another process comes between, decides nothing.
        clock[0] += 9.0 if calls.count(faster) == 1 and x.dtype == faster else 1.0 if x.dtype == faster else 2.0

    monkeypatch.setattr(devices.F, "linear", linear)
    monkeypatch.setattr(devices.time, "perf_counter", lambda: clock[0])
    assert choose_dtype("auto") == faster
