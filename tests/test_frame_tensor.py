"""FrameTensor must pass for an ordinary IMAGE tensor, and make no more frames than are read."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from comfyui_sonic.nodes.frame_tensor import FrameTensor
from comfyui_sonic.sonic.errors import NotEnoughMemory


class CountingSource:
    """Ten small frames, each of one grey value; remembers which were made."""

    count, height, width = 10, 4, 6

    def __init__(self) -> None:
        self.made: list[int] = []

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        for index in range(start, self.count if stop is None else stop):
            self.made.append(index)
            yield np.full((self.height, self.width, 3), index * 20, np.uint8)


@pytest.fixture
def source() -> CountingSource:
    return CountingSource()


@pytest.fixture
def ordinary() -> torch.Tensor:
    values = torch.arange(10, dtype=torch.float32) * 20 / 255
    return values[:, None, None, None].expand(10, 4, 6, 3).clone()


@pytest.fixture(params=[False, True], ids=["plain", "inference mode"])
def mode(request: pytest.FixtureRequest) -> Iterator[None]:
    """ComfyUI runs nodes in inference mode; some servers switch it off."""
    with torch.inference_mode(request.param):
        yield


pytestmark = pytest.mark.usefixtures("mode")


def test_shape_dtype_and_device_are_told_without_making_a_frame(source: CountingSource) -> None:
    images = FrameTensor(source)
    assert isinstance(images, torch.Tensor)
    assert (images.shape, images.dtype, images.device.type) == ((10, 4, 6, 3), torch.float32, "cpu")
    assert (len(images), images.ndim, images.size(2), images.numel(), images.nbytes) == (10, 4, 6, 720, 2880)
    assert images.is_contiguous() and not images.requires_grad
    assert "10" in repr(images)
    assert source.made == []


def test_an_index_makes_that_frame_only(source: CountingSource, ordinary: torch.Tensor) -> None:
    images = FrameTensor(source)
    assert torch.equal(images[3], ordinary[3])
    assert torch.equal(images[-1], ordinary[-1])
    assert torch.equal(images[2, ..., :2], ordinary[2, ..., :2])
    assert source.made == [3, 9, 2]
    with pytest.raises(IndexError):
        images[10]


def test_a_slice_is_lazy_and_makes_its_frames_only(source: CountingSource, ordinary: torch.Tensor) -> None:
    part = FrameTensor(source)[2:8]
    assert part.shape == (6, 4, 6, 3)
    assert source.made == []
    assert torch.equal(part[1:3].clone(), ordinary[3:5])
    assert torch.equal(FrameTensor(source)[1:9:3].clone(), ordinary[1:9:3])
    assert torch.equal(FrameTensor(source)[-2:].clone(), ordinary[-2:])
    assert source.made == [3, 4, 1, 4, 7, 8, 9]


def test_an_operation_on_a_slice_makes_its_frames_only_and_once(source: CountingSource, ordinary: torch.Tensor) -> None:
    part = FrameTensor(source)[2:5]
    assert torch.equal(part * 2, ordinary[2:5] * 2)
    assert torch.equal(part.movedim(-1, 1), ordinary[2:5].movedim(-1, 1))
    assert torch.equal(torch.from_numpy(part.numpy()), ordinary[2:5])
    assert source.made == [2, 3, 4]


def test_a_list_or_a_mask_makes_its_frames_only(source: CountingSource, ordinary: torch.Tensor) -> None:
    images = FrameTensor(source)
    assert torch.equal(images[[7, 1]], ordinary[[7, 1]])
    mask = torch.tensor([False] * 9 + [True])
    assert torch.equal(images[mask], ordinary[mask])
    assert source.made == [7, 1, 9]


def test_iterating_makes_one_frame_at_a_time(source: CountingSource, ordinary: torch.Tensor) -> None:
    for index, image in enumerate(FrameTensor(source)):
        assert torch.equal(image, ordinary[index])
        assert source.made == list(range(index + 1))


def test_the_channels_of_all_frames_taken_whole_stay_lazy(source: CountingSource) -> None:
    assert FrameTensor(source)[:, :, :, :3].shape == (10, 4, 6, 3)
    assert FrameTensor(source)[...].shape == (10, 4, 6, 3)
    assert source.made == []


def test_other_operations_equal_those_of_an_ordinary_tensor(source: CountingSource, ordinary: torch.Tensor) -> None:
    images = FrameTensor(source)
    other = torch.rand(2, 4, 6, 3)
    for operation in (
        lambda t: t * 2 - 1,
        lambda t: t.movedim(-1, 1),
        lambda t: t.permute(0, 3, 1, 2).contiguous(),
        lambda t: torch.cat([t, other]),
        lambda t: torch.cat((other, t), dim=0),
        lambda t: torch.stack([t, t]),
        lambda t: torch.nn.functional.interpolate(t.movedim(-1, 1), size=(8, 8), mode="bilinear"),
        lambda t: t.mean(dim=(1, 2)),
        lambda t: t.clamp(0.1, 0.5).to(torch.float16),
        lambda t: t.to("cpu", torch.float64),
        lambda t: t.repeat(2, 1, 1, 1),
        lambda t: t.reshape(10, -1),
        lambda t: t.unsqueeze(0),
        lambda t: t.flip(0),
        lambda t: t[:, 1:3],
        lambda t: t.cpu().detach().clone(),
        lambda t: torch.where(t > 0.3, t, 0.0),
        lambda t: t.roll(1, 0),
        lambda t: t.split(4)[2],
        lambda t: t.chunk(3)[0],
        lambda t: t.unbind()[4],
    ):
        result = operation(images)
        assert torch.equal(result.clone(), operation(ordinary))
        assert type(result) in (torch.Tensor, FrameTensor)
    assert torch.equal(images, ordinary) and torch.allclose(ordinary, images)


def test_everything_is_made_once_for_many_operations(source: CountingSource) -> None:
    images = FrameTensor(source)
    (images + 1).sum()
    (images * 2).max()
    assert torch.equal(images[4], images.movedim(-1, 1)[4].movedim(0, -1))
    assert source.made == list(range(10))
    assert images.is_made


def test_numpy_reads_it_as_an_array(source: CountingSource, ordinary: torch.Tensor) -> None:
    for array in (
        FrameTensor(source).numpy(),
        FrameTensor(source).cpu().numpy(),
        np.asarray(FrameTensor(source)),
        np.array(FrameTensor(source)[2:4].cpu().numpy()),
        np.array(FrameTensor(source).tolist(), np.float32),
    ):
        assert isinstance(array, np.ndarray) and array.dtype == np.float32
        np.testing.assert_array_equal(array[-1], ordinary[-1 if len(array) == 10 else 3].numpy())
    assert np.clip(255.0 * FrameTensor(source)[1].cpu().numpy(), 0, 255).astype(np.uint8).max() == 20


def test_what_is_written_into_it_is_kept(source: CountingSource, ordinary: torch.Tensor) -> None:
    images = FrameTensor(source)
    images[0] = 0.5
    images[2:4, 0] = 1.0
    ordinary[0], ordinary[2:4, 0] = 0.5, 1.0
    assert torch.equal(images.clone(), ordinary)
    same = images.mul_(0.5)
    assert same is images
    part = images[5:7]
    part += 0.25
    ordinary *= 0.5
    ordinary[5:7] += 0.25
    assert torch.equal(images.clone(), ordinary)
    assert torch.equal(images[6], ordinary[6])


def test_a_part_written_into_before_the_whole_was_read_changes_the_whole(
    source: CountingSource, ordinary: torch.Tensor
) -> None:
    images = FrameTensor(source)
    images[1:3].zero_()
    ordinary[1:3] = 0
    assert torch.equal(images.clone(), ordinary)


def test_a_copy_and_a_pickle_are_ordinary_tensors(source: CountingSource, ordinary: torch.Tensor) -> None:
    images = FrameTensor(source)
    for twin in (copy.copy(images), copy.deepcopy(images), pickle.loads(pickle.dumps(images))):  # noqa: S301
        assert type(twin) is torch.Tensor
        assert torch.equal(twin, ordinary)


def test_frames_that_do_not_fit_into_free_memory_are_refused_with_a_sentence(
    source: CountingSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.count = 10**9 + psutil.virtual_memory().total // (source.height * source.width * 3 * 4)
    images = FrameTensor(source)
    with pytest.raises(NotEnoughMemory, match="'video' output"):
        images * 2
    assert images[5].mean() == pytest.approx(100 / 255)


def test_an_interrupt_passes_through_the_making(source: CountingSource) -> None:
    class InterruptError(Exception):
        pass

    def check() -> None:
        if len(source.made) == 3:
            raise InterruptError

    with pytest.raises(InterruptError):
        FrameTensor(source, check) + 1
    assert len(source.made) == 3
