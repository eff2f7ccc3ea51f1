"""The U-Net against its published names and shapes and a plain implementation; maps of images of any size."""

from __future__ import annotations

import contextlib
import queue
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.networks import strips, unet, unet_ascent, unet_strips
from cryosegnet_ext.networks.cpu_threads import each
from cryosegnet_ext.networks.precision import all_in
from cryosegnet_ext.networks.unet import AttentionUNet, probability_map
from cryosegnet_ext.networks.unet_strips import StripUNet
from cryosegnet_ext.weights import load_unet

# Base channels and levels.
SIZES = ((4, 3), (6, 2))


def conv_block(prefix, channels_in, channels_out):
    shapes = {}
    for conv, norm, source in ((0, 1, channels_in), (3, 4, channels_out)):
        shapes[f"{prefix}.{conv}.weight"] = (channels_out, source, 3, 3)
        shapes[f"{prefix}.{conv}.bias"] = (channels_out,)
        shapes |= batch_norm(f"{prefix}.{norm}", channels_out)
    return shapes


def batch_norm(prefix, channels):
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}.{name}": (channels,) for name in names} | {f"{prefix}.num_batches_tracked": ()}


def point_conv(prefix, channels_in, channels_out):
    return {f"{prefix}.weight": (channels_out, channels_in, 1, 1), f"{prefix}.bias": (channels_out,)}


def published_shapes(width):
    """Names and shapes of the published checkpoint; ``width`` are the channels of the encoders and the bottleneck."""
    *encoders, bottleneck = width
    shapes = {}
    for i, (channels_in, channels_out) in enumerate(pairwise([1, *encoders]), start=1):
        shapes |= conv_block(f"e{i}.conv.conv", channels_in, channels_out)
    shapes |= conv_block("b1.conv", encoders[-1], bottleneck)
    for i, (coarse, skip) in enumerate(pairwise([bottleneck, *reversed(encoders)]), start=1):
        shapes |= point_conv(f"d{i}.ag.Wg.0", coarse, skip) | batch_norm(f"d{i}.ag.Wg.1", skip)
        shapes |= point_conv(f"d{i}.ag.Ws.0", skip, skip) | batch_norm(f"d{i}.ag.Ws.1", skip)
        shapes |= point_conv(f"d{i}.ag.output.0", skip, skip)
        shapes |= conv_block(f"d{i}.c1.conv", coarse + skip, skip)
    return shapes | point_conv("output", encoders[0], 1)


def random_unet(base_channels, levels, seed=0):
    """A network in which every tensor matters: its batch norms have statistics."""
    torch.manual_seed(seed)
    model = AttentionUNet(base_channels, levels)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("running_mean", ".bias")):
                tensor.uniform_(-0.2, 0.4)
            elif name.endswith("running_var"):
                tensor.uniform_(0.05, 0.3)
    return model.eval()


def test_the_published_network_has_the_published_names_and_shapes():
    with torch.device("meta"):
        model = AttentionUNet(64, 5)
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = published_shapes([64, 128, 256, 512, 1024, 2048])
    assert set(found) == set(expected)
    for name, shape in expected.items():
        assert found[name] == shape, name
    assert found["e1.conv.conv.0.weight"] == (64, 1, 3, 3)
    assert found["d1.ag.Wg.0.weight"] == (1024, 2048, 1, 1)
    assert found["d1.c1.conv.0.weight"] == (1024, 3072, 3, 3)
    assert found["d5.c1.conv.3.weight"] == (64, 64, 3, 3)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(131.4e6, abs=0.05e6)
    file = {name: torch.empty(shape, device="meta") for name, shape in expected.items()}
    model.load_state_dict(file, strict=True, assign=True)


@pytest.mark.parametrize("levels", [4, 5, 6])
def test_a_file_in_the_published_format_loads_strictly(tmp_path, levels):
    shapes = published_shapes([2 * 2**i for i in range(levels + 1)])
    generator = torch.Generator().manual_seed(levels)
    state = {
        name: torch.rand(shape, generator=generator) if shape else torch.tensor(7) for name, shape in shapes.items()
    }
    torch.save(state, tmp_path / "cryosegnet.pth")
    model, note = load_unet(tmp_path / "cryosegnet.pth")
    assert (model.base_channels, model.levels, model.stride) == (2, levels, 2**levels)
    assert note == {}
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    side = 2**levels
    assert model(torch.zeros(2, 1, side, 2 * side)).shape == (2, 1, side, 2 * side)


def plain_unet(state, x, levels):
    """The network in NumPy, one image (1, H, W) at a time, from the paper's description."""

    def conv(x, name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        reach = weight.shape[-1] // 2
        padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
        out = np.zeros((weight.shape[0], *x.shape[1:]))
        for i in range(weight.shape[2]):
            for j in range(weight.shape[3]):
                window = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
                out += np.tensordot(weight[:, :, i, j], window, 1)
        return out + bias[:, None, None]

    def norm(x, name):
        mean, var, gain, shift = (
            state[f"{name}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * gain + shift

    def block(x, name):
        x = np.maximum(norm(conv(x, f"{name}.0"), f"{name}.1"), 0)
        return np.maximum(norm(conv(x, f"{name}.3"), f"{name}.4"), 0)

    def doubled(x, axis):
        n = x.shape[axis]
        at = np.arange(2 * n) * (n - 1) / (2 * n - 1)  # first and last pixels keep their places
        return np.apply_along_axis(lambda line: np.interp(at, np.arange(n), line), axis, x)

    skips = []
    for i in range(1, levels + 1):
        skips.append(block(x, f"e{i}.conv.conv"))
        c, h, w = skips[-1].shape
        x = skips[-1].reshape(c, h // 2, 2, w // 2, 2).max((2, 4))
    x = block(x, "b1.conv")
    for i in range(1, levels + 1):
        x, skip = doubled(doubled(x, 1), 2), skips.pop()
        seen = norm(conv(x, f"d{i}.ag.Wg.0"), f"d{i}.ag.Wg.1") + norm(conv(skip, f"d{i}.ag.Ws.0"), f"d{i}.ag.Ws.1")
        gate = 1 / (1 + np.exp(-conv(np.maximum(seen, 0), f"d{i}.ag.output.0")))
        x = block(np.concatenate([x, gate * skip]), f"d{i}.c1.conv")
    return conv(x, "output")


@pytest.mark.parametrize(("base_channels", "levels", "shape"), [(3, 1, (6, 10)), (2, 2, (12, 8)), (2, 3, (16, 40))])
def test_forward_is_the_plain_network(base_channels, levels, shape):
    model = random_unet(base_channels, levels)
    images = np.random.default_rng(1).standard_normal((2, 1, *shape)).astype(np.float32)
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        logits = model(torch.from_numpy(images)).numpy()
    for found, image in zip(logits, images):
        expected = plain_unet(state, image.astype(np.float64), levels)
        assert np.ptp(expected) > 0.1
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="multiples of 4"):
        AttentionUNet(2, 2)(torch.zeros(1, 1, 8, 10))
    for arguments in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="positive"):
            AttentionUNet(*arguments)


@pytest.fixture
def exact():
    """Float32 on every machine."""
    with all_in("float32"):
        yield


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(64, 64), (48, 100), (37, 53), (1, 1), (3, 90), (7, 8), (16, 17), (130, 5)])
@pytest.mark.parametrize("levels", [2, 4])
def test_a_map_has_the_size_of_its_image(exact, shape, levels):
    model = random_unet(2, levels)
    image = noise(shape)
    found = probability_map(model, image)
    assert found.shape == shape and found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()
    assert np.array_equal(found, probability_map(model, image))
    if shape[0] % model.stride == shape[1] % model.stride == 0:
        with torch.inference_mode():
            expected = torch.sigmoid(model(torch.from_numpy(image)[None, None]))[0, 0].numpy()
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("shape", [(8, 24), (16, 8), (32, 40), (72, 16), (264, 56), (1032, 8)], ids=str)
def test_strips_are_the_whole_network(levels, shape):
    """However many strips a level has, and if the last of them has a row or two only."""
    model = random_unet(3, levels)
    image = torch.from_numpy(noise(shape))[None]
    with torch.inference_mode():
        expected = torch.sigmoid(model(image[None]))[0, 0]
        part = unet.TilePosition(0, 0, *shape)
        for found in (StripUNet(model)(image), StripUNet(model)(image, part)):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def threads():
    """Sets the number of PyTorch's threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_byte(exact, threads):
    model, image, found = random_unet(4, 3), noise((300, 250)), []
    for count in (1, 2, 3):
        threads(count)
        found.append(probability_map(model, image))
        # the threads that work on pieces leave this one its own number
        assert torch.get_num_threads() == count
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_pieces_keep_their_order_and_the_first_error_is_raised(threads):
    threads(2)
    assert each(lambda piece: (piece, torch.get_num_threads()), range(20)) == [(piece, 1) for piece in range(20)]
    with pytest.raises(ZeroDivisionError):
        each(lambda piece: 1 // piece, [1, 2, 0, 3])
    assert each(lambda piece: piece, []) == []


@pytest.mark.parametrize("shape", [(400, 460), (300, 250), (97, 900)], ids=str)
def test_tiles_join_without_a_seam(exact, shape):
    """Each tile knows its position in the whole, so the only difference is what the margins cut off."""
    model = random_unet(4, 3)
    image = noise(shape)
    whole = probability_map(model, image)
    assert probability_map(model, image, tile=256, margin=64) == pytest.approx(whole, abs=1e-5)
    assert np.abs(probability_map(model, image, tile=256, margin=16) - whole).max() > 1e-4


def test_a_part_upsampled_within_the_whole():
    whole = torch.randn(1, 2, 24, 40, generator=torch.Generator().manual_seed(0))
    up = torch.nn.functional.interpolate(whole, scale_factor=2, mode="bilinear", align_corners=True)
    for top, left, bottom, right in ((0, 0, 24, 40), (4, 8, 16, 30), (0, 20, 12, 40)):
        part = unet.upsampled_as_part(whole[:, :, top:bottom, left:right], unet.TilePosition(2 * top, 2 * left, 48, 80))
        expected = up[:, :, 2 * top : 2 * bottom, 2 * left : 2 * right]
        inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
        torch.testing.assert_close(part[inside], expected[inside], rtol=1e-5, atol=1e-5)


def test_memory_that_runs_out_makes_smaller_tiles(exact, monkeypatch):
    model = random_unet(3, 2)
    image = noise((700, 520))
    whole = probability_map(model, image)
    seen = []

    def tight(self, x, position=None):
        seen.append(tuple(x.shape[1:]))
        if x.numel() > 300 * 300:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, x, position)

    forward = StripUNet.__call__
    monkeypatch.setattr(StripUNet, "__call__", tight)
    assert probability_map(model, image) == pytest.approx(whole, abs=1e-5)
    assert seen[0] == (700, 520) and max(h * w for h, w in seen[3:]) <= 300 * 300

    def none_left(self, x, position=None):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(StripUNet, "__call__", none_left)
    with pytest.raises(CryoSegNetError, match=r"^The U-Net ran out of memory on cpu"):
        probability_map(model, image)


@pytest.mark.parametrize("length", [1, 50, 2048, 2049, 3001, 4096, 9000, 12000])
@pytest.mark.parametrize("stride", [16, 32, 64])
def test_spans_cover_the_length_once(length, stride):
    spans = unet._spans(length, 2048, 1920, stride)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert all(0 < end - start <= (2048 if len(spans) == 1 else 1920) for start, end in spans)
    assert all(start % stride == 0 for start, _ in spans)


def test_reduced_precision_changes_little():
    """Where the processor has bf16 units they are used; the map moves by little."""
    model = random_unet(8, 3)
    image = noise((96, 128))
    found = probability_map(model, image)
    with torch.inference_mode():
        expected = torch.sigmoid(model(torch.from_numpy(image)[None, None]))[0, 0].numpy()
    assert np.abs(found - expected).max() < 0.05
    assert np.array_equal(found, probability_map(model, image))


@pytest.mark.parametrize("width, left, whole", [(2, 0, 2), (34, 0, 34), (96, 0, 96), (40, 72, 112), (64, 4032, 4096)])
def test_blocks_of_columns_are_the_upsampling_and_its_neighbours(width, left, whole):
    """What a block of columns sees is enough for it, wherever its tile lies."""
    coarse = torch.randn(width // 2, generator=torch.Generator().manual_seed(1)).double()
    position = unet.TilePosition(0, left, 8, whole)
    up = unet.upsampled_as_part(coarse.expand(1, 1, 4, -1), position)[0, 0, 0]
    beside = torch.nn.functional.pad(up, (1, 1))
    blocks = unet_ascent._columns_of(width, position, len(coarse))
    seen = torch.nn.functional.pad(coarse, (1, blocks.shape[0] * 8 + 10))
    for column in range(width):
        block, inside = divmod(column, 16)
        matrix = blocks[block, inside].view(10, 3)
        for place in range(3):
            value = matrix[:, place] @ seen[8 * block : 8 * block + 10]
            assert float(value) == pytest.approx(float(beside[column + place]), abs=1e-9)


@pytest.mark.parametrize("shape", [(2, 2), (6, 34), (90, 18)], ids=str)
def test_convolving_first_is_upsampling_first(shape):
    torch.manual_seed(2)
    decoder = random_unet(4, 1).d1
    x, skip = torch.randn(1, 8, shape[0] // 2, shape[1] // 2), torch.randn(1, 4, *shape)
    ascent = unet_ascent.Ascent(decoder, torch.float32)
    with torch.inference_mode():
        expected = decoder(x, skip)
        last = [value.contiguous(memory_format=torch.channels_last) for value in (x, skip)]
        torch.testing.assert_close(ascent(*last, None, torch.empty_like(expected)), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            ascent(*last, None, torch.empty(shape), lambda rows: rows[0, 1]), expected[0, 1], rtol=1e-5, atol=1e-5
        )


def test_memory_is_used_again_and_changes_nothing(exact, monkeypatch):
    """Also by another network, of other widths, and by several threads at a time."""
    monkeypatch.setattr(unet_strips, "level_memory", lambda: contextlib.nullcontext(strips.LevelMemory()))
    cases = [(random_unet(*sizes), noise(shape)) for shape in ((130, 90), (60, 200), (200, 220)) for sizes in SIZES]
    expected = [probability_map(*case) for case in cases]
    monkeypatch.undo()
    monkeypatch.setattr(strips, "_unused", queue.Queue(1))
    for case, map_ in [*zip(cases, expected), *zip(cases, expected)]:
        assert np.array_equal(probability_map(*case), map_)
    assert strips._unused.full()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda case: probability_map(*case), cases * 5))
    assert all(np.array_equal(one, map_) for one, map_ in zip(found, expected * 5))
    monkeypatch.setattr(strips, "KEPT", strips._unused.queue[0].bytes - 1)
    probability_map(*cases[-1])
    assert strips._unused.empty()
