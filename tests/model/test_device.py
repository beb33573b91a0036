"""Choosing where to compute: measured, explained, and never a crash on another machine."""

import platform

import pytest
import torch

from puna.errors import PunaError
from puna.model import device as module
from puna.model.device import Device, can_compile, matmul_peak, pick_device, tune_allocator


def test_a_wish_is_followed_without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_rate", lambda *_: pytest.fail("measured"))
    assert pick_device("fp32").dtype == torch.float32
    assert pick_device("bf16").dtype == torch.bfloat16
    with pytest.raises(PunaError, match="fp8"):
        pick_device("fp8")  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's choice")
@pytest.mark.parametrize(("half", "expected"), [(2e9, torch.bfloat16), (1.1e9, torch.float32), (1e8, torch.float32)])
def test_bf16_is_taken_only_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, half: float, expected: torch.dtype
) -> None:
    monkeypatch.setattr(module, "_rate", lambda dtype, *_: half if dtype == torch.bfloat16 else 1e9)
    device = pick_device()
    assert device.dtype == expected
    assert "times as fast" in device.reason


def test_the_real_choice_and_its_peak() -> None:
    device = pick_device()
    assert device.threads >= 1 and device.name
    assert matmul_peak(torch.float32) > 1e8


def test_autocast_runs_in_the_chosen_precision() -> None:
    x = torch.ones(4, 4)
    for dtype in (torch.float32, torch.bfloat16):
        with Device("test", torch.device("cpu"), 1, dtype, "test").autocast():
            assert (x @ x).dtype == dtype


def test_the_allocator_is_tuned_on_glibc_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert "not glibc" in tune_allocator()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's switches")
def test_glibc_takes_every_setting() -> None:
    assert tune_allocator() == "allocator: no mapped blocks, no trimming, 256 MB kept on top"


def test_without_a_compiler_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert can_compile.__wrapped__() == (False, "no C++ compiler was found")
