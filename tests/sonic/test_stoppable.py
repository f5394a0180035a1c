"""Layers and attention worked on in pieces on a processor: the same numbers, and a look at 'interrupt' between them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from .test_network import call

Measure = Callable[[torch.Tensor, torch.Tensor], float]

LAYERS = {
    "rows of tokens": (nn.Linear(12, 20), (6, 7, 12)),
    "one row of tokens": (nn.Linear(12, 20), (1, 9, 12)),
    "no tokens, only rows": (nn.Linear(12, 20), (9, 12)),
    "pictures": (nn.Conv2d(4, 6, 3, padding=1), (5, 4, 11, 9)),
    "one picture": (nn.Conv2d(4, 6, 3, padding=1), (1, 4, 11, 9)),
    "one picture, wide edges": (nn.Conv2d(4, 6, 5, padding=2), (1, 4, 11, 9)),
    "one picture, pixel by pixel": (nn.Conv2d(4, 6, 1), (1, 4, 11, 9)),
    "pictures, reduced": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (5, 4, 12, 8)),
    "pixels over time": (nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0)), (2, 4, 5, 11, 9)),
    "pictures over time": (nn.Conv3d(4, 6, 3, padding=1), (1, 4, 5, 11, 9)),
    "a norm of groups": (nn.GroupNorm(2, 4), (5, 4, 6, 6)),
    "an activation": (nn.SiLU(), (5, 4, 6, 6)),
    "a norm of tokens": (nn.LayerNorm(12), (6, 7, 12)),
}


class Pressed(Exception):
    """Stands for what ComfyUI raises."""


class Button:
    """Counts how often it is looked at, and is found pressed after ``after`` times."""

    def __init__(self) -> None:
        self.looks = 0
        self.after: float = float("inf")

    def __call__(self) -> None:
        if self.looks >= self.after:
            raise Pressed
        self.looks += 1


@pytest.fixture
def button(native: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Button:
    """In place of ComfyUI's, and pieces are tiny."""
    made = Button()
    monkeypatch.setattr(native.stoppable, "PIECE", 2000)
    monkeypatch.setattr(native.stoppable, "look", made)
    return made


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_in_pieces_makes_the_same_numbers(kind: str, native: SimpleNamespace, button: Button) -> None:
    layer, shape = LAYERS[kind]
    layer = copy.deepcopy(layer)
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = layer(given)
        pieces = native.stoppable.stoppable(layer)(given)
    torch.testing.assert_close(pieces, whole)
    assert button.looks > 2  # before it, and before each piece


def test_a_small_layer_stays_whole(native: SimpleNamespace, button: Button) -> None:
    layer = native.stoppable.stoppable(nn.Linear(4, 4))
    layer(torch.ones(2, 4))
    assert button.looks == 1


@pytest.mark.parametrize(("rows", "queries", "keys"), [(6, 8, 8), (1, 40, 40), (2, 40, 3), (40, 2, 2)])
def test_attention_in_pieces_makes_the_same_numbers(
    rows: int, queries: int, keys: int, native: SimpleNamespace, button: Button
) -> None:
    source = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(rows, tokens, 16, generator=source) for tokens in (queries, keys, keys))
    attention = native.network.optimized_attention
    pieces = attention(q, k, v, 2, transformer_options=native.stoppable.stoppable_attention({}))
    torch.testing.assert_close(pieces, attention(q, k, v, 2))
    assert button.looks > 2  # before it, and before each piece


def test_attention_that_somebody_else_has_replaced_is_theirs_in_pieces(native: SimpleNamespace, button: Button) -> None:
    asked: list[int] = []

    def theirs(attention: Callable[..., torch.Tensor], q: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        asked.append(q.shape[1])
        return attention(q, *others, **named)

    q = torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(1))
    options = native.stoppable.stoppable_attention({"optimized_attention_override": theirs})
    found = native.network.optimized_attention(q, q, q, 2, transformer_options=options)
    torch.testing.assert_close(found, native.network.optimized_attention(q, q, q, 2))
    assert sum(asked) == 40 and len(asked) > 3


def test_the_video_network_in_pieces_makes_the_same_numbers_and_ends_between_any_two(
    native: SimpleNamespace, unet: Any, recorded: Any, relative_rms: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = call(native, unet, recorded, side=16)
    button = Button()
    monkeypatch.setattr(native.stoppable, "look", button)
    call(native, unet, recorded, side=16)
    of_layers = button.looks
    monkeypatch.setattr(native.stoppable, "PIECE", 2**20)
    monkeypatch.setattr(native.stoppable_operations, "PIECE", 2**16)
    button.looks = 0
    assert (
        relative_rms(call(native, unet, recorded, side=16), whole) < 5e-6
    )  # smaller ones norm single pixels, which doubles any digit lost
    assert button.looks > 2 * of_layers
    everything = button.looks
    for button.after in (0, everything // 2, everything - 1):
        button.looks = 0
        with pytest.raises(Pressed):
            call(native, unet, recorded, side=16)


def test_the_autoencoder_in_pieces_makes_the_same_numbers(
    native: SimpleNamespace, autoencoder: Any, relative_rms: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = torch.Generator().manual_seed(1)
    picture = torch.randint(0, 256, (64, 128, 3), generator=source, dtype=torch.uint8).numpy()
    latents = torch.randn(3, 4, 8, 16, generator=source).to(autoencoder.device)
    encoded, decoded = autoencoder.encode(picture), autoencoder.decode_chunk(latents)
    button = Button()
    monkeypatch.setattr(native.stoppable, "look", button)
    monkeypatch.setattr(native.stoppable, "PIECE", 2**16)
    assert relative_rms(autoencoder.encode(picture), encoded) < 5e-6
    assert relative_rms(autoencoder.decode_chunk(latents), decoded) < 5e-6
    assert button.looks > (500 if autoencoder.device.type == "cpu" else 300)  # a card is given whole layers


OPERATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "a sum": lambda x, y: x + y,
    "a sum of two layouts": lambda x, y: x + y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "a sum with one for each channel": lambda x, y: x + y[:1, :, :1, :1],
    "a sum with fewer dimensions": lambda x, y: x + y[0],
    "a weighted sum": lambda x, y: torch.add(x, y, alpha=0.3),
    "a difference and a product": lambda x, y: (x - y) * y,
    "a quotient with a number": lambda x, y: x / 3.0,
    "a blend": lambda x, y: 0.25 * x + (1 - 0.25) * y,
    "in place": lambda x, y: x.clone().add_(y).mul_(y[:1]),
    "a copy, laid out anew": lambda x, y: x.permute(0, 2, 3, 1).contiguous(),
    "a copy of another precision": lambda x, y: x.to(torch.bfloat16),
    "one behind the other, by channel": lambda x, y: torch.cat([x, y[:, :2]], dim=1),
    "one behind the other, by row": lambda x, y: torch.cat([x, y[:2]]),
    "one row only": lambda x, y: x[:1] + y[:1],
    "enlarged": lambda x, y: nn.functional.interpolate(x, scale_factor=2, mode="nearest"),
    "what is not known here": lambda x, y: torch.softmax(x, dim=-1),
}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_an_operation_in_pieces_makes_the_same_numbers_in_the_same_layout(
    kind: str, native: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native.stoppable_operations, "PIECE", 50)
    looks = Button()
    x, y = torch.randn(2, 5, 4, 6, 7, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = OPERATIONS[kind](x, y)
        with native.stoppable_operations.StoppableOperations(looks):
            pieces = OPERATIONS[kind](x, y)
    assert torch.equal(pieces, whole)
    assert (pieces.dtype, pieces.stride()) == (whole.dtype, whole.stride())
    assert looks.looks > 2 or kind in ("what is not known here", "one behind the other, by row")


def test_a_large_operation_ends_at_its_next_piece(native: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.stoppable_operations, "PIECE", 50)
    button = Button()
    button.after = 3
    with pytest.raises(Pressed), native.stoppable_operations.StoppableOperations(button):
        torch.zeros(20, 20) + 1.0 + torch.ones(20, 20)
    assert button.looks == 3


class Given:
    """Stands where a card takes work: it does one layer each time it is asked how far it is."""

    def __init__(self) -> None:
        self.given = self.done = 0

    def pace(self, native: SimpleNamespace) -> Any:
        card = self

        class PaceOfTheCard(native.stoppable.Pace):  # type: ignore[misc, name-defined]
            def mark(self, device: torch.device) -> Any:
                return SimpleNamespace(query=lambda upto=card.given: card.worked() >= upto)

        return PaceOfTheCard()

    def worked(self) -> int:
        self.done = min(self.given, self.done + 1)
        return self.done


def test_a_card_is_never_given_more_than_some_layers_ahead(
    native: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native.stoppable, "look", Button())
    card = Given()
    pace, ahead = card.pace(native), []
    for _ in range(500):
        pace.keep(torch.device("cuda"))
        card.given += 1
        ahead.append(card.given - card.done)
    assert max(ahead) <= native.stoppable.AHEAD
    assert min(ahead[100:]) >= native.stoppable.AHEAD // 2  # it never has nothing to do


def test_who_waits_for_a_card_is_interrupted(native: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    button = Button()
    button.after = 20
    monkeypatch.setattr(native.stoppable, "look", button)
    card = Given()
    pace = card.pace(native)
    with pytest.raises(Pressed):
        for _ in range(200):
            pace.keep(torch.device("cuda"))
            card.given += 1
    assert card.given - card.done > 0
