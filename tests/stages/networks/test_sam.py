"""stages/networks/sam.py: weights of files and folders, held against the authors' network, and files that are none."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from artifacts.errors import ConfigError
from stages.localization.sam_segments import segments_of
from stages.localization.segments_config import SamSource
from stages.networks.sam import mask_generator

transformers = pytest.importorskip("transformers")

CPU = torch.device("cpu")
ALL = SamSource(name="sam", points=4, points_at_once=8, predicted_iou=0, stability=0)


def linear(name, out, inside):
    return {f"{name}.weight": (out, inside), f"{name}.bias": (out,)}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def convolution(name, out, inside, side):
    return {f"{name}.weight": (out, inside, side, side), f"{name}.bias": (out,)}


def attention(name, width, inner):
    found = {}
    for part in "qkv":
        found |= linear(f"{name}.{part}_proj", inner, width)
    return found | linear(f"{name}.out_proj", width, inner)


def authors_shapes(width=16, heads=2, cells=4, window=3, channels=16, masks=8, hidden=24, rating=12):
    """Names and shapes of the network as SAM's authors publish it: two blocks, the second with global attention."""
    shapes = {"image_encoder.pos_embed": (1, cells, cells, width)}
    shapes |= convolution("image_encoder.patch_embed.proj", width, 3, 16)
    for block, reach in enumerate((window, cells)):
        name = f"image_encoder.blocks.{block}"
        shapes |= norm(f"{name}.norm1", width) | norm(f"{name}.norm2", width)
        shapes |= {f"{name}.attn.rel_pos_{side}": (2 * reach - 1, width // heads) for side in "hw"}
        shapes |= linear(f"{name}.attn.qkv", 3 * width, width) | linear(f"{name}.attn.proj", width, width)
        shapes |= linear(f"{name}.mlp.lin1", 2 * width, width) | linear(f"{name}.mlp.lin2", width, 2 * width)
    shapes |= {"image_encoder.neck.0.weight": (channels, width, 1, 1)} | norm("image_encoder.neck.1", channels)
    shapes |= {"image_encoder.neck.2.weight": (channels, channels, 3, 3)} | norm("image_encoder.neck.3", channels)

    prompt = "prompt_encoder"
    shapes[f"{prompt}.pe_layer.positional_encoding_gaussian_matrix"] = (2, channels // 2)
    for name in (*(f"point_embeddings.{number}" for number in range(4)), "not_a_point_embed", "no_mask_embed"):
        shapes[f"{prompt}.{name}.weight"] = (1, channels)
    shapes |= convolution(f"{prompt}.mask_downscaling.0", masks // 4, 1, 2)
    shapes |= norm(f"{prompt}.mask_downscaling.1", masks // 4)
    shapes |= convolution(f"{prompt}.mask_downscaling.3", masks, masks // 4, 2)
    shapes |= norm(f"{prompt}.mask_downscaling.4", masks)
    shapes |= convolution(f"{prompt}.mask_downscaling.6", channels, masks, 1)

    decoder, across = "mask_decoder", ("cross_attn_token_to_image", "cross_attn_image_to_token")
    block = f"{decoder}.transformer.layers.0"
    shapes |= attention(f"{block}.self_attn", channels, channels)
    for name in (*(f"{block}.{part}" for part in across), f"{decoder}.transformer.final_attn_token_to_image"):
        shapes |= attention(name, channels, channels // 2)
    for number in range(1, 5):
        shapes |= norm(f"{block}.norm{number}", channels)
    shapes |= linear(f"{block}.mlp.lin1", hidden, channels) | linear(f"{block}.mlp.lin2", channels, hidden)
    shapes |= norm(f"{decoder}.transformer.norm_final_attn", channels)
    shapes |= {f"{decoder}.iou_token.weight": (1, channels), f"{decoder}.mask_tokens.weight": (4, channels)}
    for name, inside, out in (("0", channels, channels // 4), ("3", channels // 4, channels // 8)):
        shapes[f"{decoder}.output_upscaling.{name}.weight"] = (inside, out, 2, 2)
        shapes[f"{decoder}.output_upscaling.{name}.bias"] = (out,)
    shapes |= norm(f"{decoder}.output_upscaling.1", channels // 4)
    heads_of = [(f"{decoder}.output_hypernetworks_mlps.{number}", channels, channels // 8) for number in range(4)]
    for name, middle, out in (*heads_of, (f"{decoder}.iou_prediction_head", rating, 4)):
        for number, (inside, own) in enumerate(((channels, middle), (middle, middle), (middle, out))):
            shapes |= linear(f"{name}.layers.{number}", own, inside)
    return shapes


def authors_state():
    """Weights by a formula."""
    state = {}
    for place, (name, shape) in enumerate(sorted(authors_shapes().items())):
        values = np.sin(np.arange(np.prod(shape)) * (1.7 + place * 0.01) + place)
        values = 1 + values / 2 if "norm" in name and name.endswith("weight") else values
        state[name] = torch.tensor(values, dtype=torch.float32).reshape(shape)
    return state


def drawn():
    y, x = np.mgrid[:48, :64]
    return np.stack([x * 4 % 256, y * 5 % 256, (x // 16 + y // 16) % 2 * 200], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("sam") / "sam.pth"
    torch.save(authors_state(), file)
    return file


@pytest.fixture
def folder(file, tmp_path):
    """The same network as transformers stores it."""
    generate = mask_generator(str(file), CPU)
    generate.model.save_pretrained(tmp_path)
    generate.image_processor.save_pretrained(tmp_path)
    return tmp_path


def test_masks_are_those_of_the_authors_code(file):
    """The numbers are of segment-anything's SamAutomaticMaskGenerator with these weights, image and points."""
    masks, ratings = segments_of(mask_generator(str(file), CPU), drawn(), ALL)
    assert ratings == pytest.approx([0.9450, -0.7658], abs=1e-4)
    assert [int(mask.sum()) for mask in masks] == [2006, 317]


def test_a_folder_of_transformers_gives_the_same(file, folder):
    expected, ratings = segments_of(mask_generator(str(file), CPU), drawn(), ALL)
    found, again = segments_of(mask_generator(str(folder), CPU), drawn(), ALL)
    assert ratings == again
    assert all(np.array_equal(one, other) for one, other in zip(expected, found, strict=True))


def test_what_is_rated_low_or_is_nearly_the_whole_image_is_left_out(file):
    generate = mask_generator(str(file), CPU)
    both = segments_of(generate, drawn(), ALL)[0]
    high = segments_of(generate, drawn(), ALL.model_copy(update={"predicted_iou": 0.9}))[0]
    small = segments_of(generate, drawn(), ALL.model_copy(update={"largest": 0.5}))[0]
    assert np.array_equal(high, both[:1])
    assert np.array_equal(small, both[1:])


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (300, 200), (17, 5)])
def test_images_of_any_size_have_masks_of_theirs(file, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    masks, _ = segments_of(mask_generator(str(file), CPU), image, ALL.model_copy(update={"max_pixels": 5000}))
    assert {mask.shape for mask in masks} == {size}


def without(name):
    return {key: value for key, value in authors_state().items() if key != name}


POSITIONS = "image_encoder.blocks.0.attn.rel_pos_h"
TOKEN = "mask_decoder.iou_token.weight"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"features.0.weight": torch.zeros(3)}, "has no SAM by the names of its authors"),
        (without(POSITIONS), f"has no SAM by the names of its authors ('{POSITIONS}')"),
        (without(TOKEN), f"do not fit SAM\n  1 missing: {TOKEN}"),
        (authors_state() | {TOKEN: torch.full((1, 16), torch.nan)}, f"not finite numbers: {TOKEN}"),
        (authors_state() | {"more": torch.zeros(3)}, "1 unexpected: more"),
        (b"no weights", "is damaged or not a checkpoint"),
    ],
)
def test_a_file_that_is_not_of_sam_is_one_error_and_not_to_be_deleted(tmp_path, state, message):
    file = tmp_path / "wrong.pth"
    file.write_bytes(state) if isinstance(state, bytes) else torch.save(state, file)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        mask_generator(str(file), CPU)
    assert "set source.weights to a file of SAM's authors" in caught.value.hint


def change(folder, **changes):
    """Changes entries of the weights in a folder; None removes one."""
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors") | {key.replace("__", "."): value for key, value in changes.items()}
    kept = {key: value for key, value in state.items() if value is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def cut(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no model that transformers can load"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
            "no model that transformers can",
        ),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "Can't load image processor"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        (cut, "has no model that transformers can load"),
        (lambda folder: change(folder, mask_decoder__iou_token__weight=None), "are missing: mask_decoder.iou_token"),
        (
            lambda folder: change(folder, mask_decoder__iou_token__weight=torch.zeros(1, 3)),
            "are of a different shape: mask_decoder.iou_token.weight",
        ),
        (
            lambda folder: change(folder, mask_decoder__iou_token__weight=torch.full((1, 16), torch.inf)),
            "are not finite: mask_decoder.iou_token.weight",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_one_error(folder, damage, message):
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        mask_generator(str(folder), CPU)


def test_a_folder_may_hold_sam_2(tmp_path):
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=16,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 3, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 2, 4, 2],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
    )
    prompts = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    decoder = {"hidden_size": 32, "mlp_dim": 32, "iou_head_hidden_dim": 16}
    config = transformers.Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    transformers.Sam2Model(config).save_pretrained(tmp_path)
    square, quarter = {"height": 64, "width": 64}, {"height": 16, "width": 16}
    transformers.Sam2ImageProcessor(size=square, mask_size=quarter).save_pretrained(tmp_path)
    masks, ratings = segments_of(mask_generator(str(tmp_path), CPU), drawn(), ALL)
    assert len(masks) == len(ratings) > 0
    assert {mask.shape for mask in masks} == {(48, 64)}
