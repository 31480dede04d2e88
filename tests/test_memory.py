"""Memory that large arrays leave to the next ones."""

import mmap

import pytest
import torch

from growdarts_fast.memory import LARGE, Memory, empty


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_arrays_as_torch_gives_them(dtype):
    for shape in ((3, 5), (2, LARGE // 8, 3)):
        x = empty(shape, dtype).zero_()
        assert x.shape == shape and x.dtype == dtype and x.is_contiguous() and not x.any()
        assert x.data_ptr() % 64 == 0
        assert empty(shape, dtype).fill_(2).mean() == 2 and not x.any()


def test_what_an_array_leaves_is_used_again_when_its_last_view_is_gone():
    x = empty((LARGE,), torch.float32)
    place, view = x.data_ptr(), x[1:].view(1, -1)
    del x
    assert empty((LARGE,), torch.float32).data_ptr() != place
    view.fill_(1)
    del view
    found = [empty((LARGE,), torch.float32) for _ in range(2)]
    assert place in [x.data_ptr() for x in found]


def test_never_more_than_was_in_use_at_one_time():
    memory = Memory()
    first, second = memory.take(5000), memory.take(3000)
    memory.give_back(first)
    memory.give_back(second)
    again = memory.take(5000)
    assert again is first and memory.free == [second]
    other = memory.take(3500)  # 8500 and the free block were more than 8500
    assert not memory.free and memory.in_use == memory.most == 8500
    memory.give_back(other)
    assert memory.free == [other]


@pytest.mark.parametrize("missing", ["the name", "the kernel's support"])
def test_without_large_pages(monkeypatch, missing):
    if missing == "the name":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    else:
        monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1, raising=False)  # the kernel refuses it
    block = Memory().take(mmap.PAGESIZE)
    block[:3] = b"abc"
    assert block[:4] == b"abc\0"
