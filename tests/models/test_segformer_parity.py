"""SegFormer equals transformers' (live, true sizes) and an independent PyTorch definition (official and seed, tiny)."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs the extra [parity]")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from jaxseg.models import create_model  # noqa: E402
from jaxseg.types import ConfigError, MismatchError  # noqa: E402
from jaxseg.weights import from_torch, torch_files  # noqa: E402
from tests.models.ports import parity  # noqa: E402
from tests.models.ports.segformer import ICH, OFFICIAL, SegFormer  # noqa: E402

TINY = ((8, 16, 40, 64), (1, 1, 1, 1), 16)
KINDS = {"official": ("segformer_test", OFFICIAL), "ich": ("segformer_test_ich", ICH)}
SIZES = [(64, 96), (100, 132)]


def ours(kind, **more):
    return create_model(KINDS[kind][0], in_channels=3, num_classes=2, **more)


@pytest.fixture(scope="module")
def image():
    return parity.images((2, 68, 100, 3))  # 17 x 25, 9 x 13, 5 x 7, 3 x 4 tokens, reduced to 2 x 3


@pytest.fixture(scope="module", params=KINDS)
def pair(request, image):
    kind = request.param
    port = parity.redraw(SegFormer(*TINY, knobs=KINDS[kind][1]), image, classifier="decode_head.linear_pred")
    model = ours(kind)
    report = from_torch.load(model, port.state_dict())
    assert report.key_mapping == "official" and not report.initialised and not report.adapted
    assert len(report.loaded) + len(report.ignored) == len(port.state_dict())
    return kind, model, port


def test_tiny_logits_equal_the_port(pair, image):
    _, model, port = pair
    assert parity.relative_error(model, port, image) <= parity.TOLERANCE


WRONG = {
    "the other GELU": dict(gelu="flip"),
    "the other eps of the head's norm": dict(head_eps="flip"),
    "align_corners of the logits": dict(align_corners="flip"),
    "align_corners of the features": dict(feature_corners=True),
    "block eps 1e-3": dict(block_eps=1e-3),
    "embedding eps 1e-3": dict(embed_eps=1e-3),
    "finest map first": dict(finest_first=True),
    "values before keys": dict(values_first=True),
    "heads interleaved": dict(interleaved=True),
    "no scale": dict(unscaled=True),
    "padded reduction": dict(reduce_padded=True),
}


@pytest.mark.full
@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_port_is_noticed(pair, image, mistake):
    kind, model, port = pair
    right, other = (OFFICIAL, ICH) if kind == "official" else (ICH, OFFICIAL)
    values = {k: getattr(other, k) if v == "flip" else v for k, v in WRONG[mistake].items()}
    wrong = SegFormer(*TINY, knobs=dataclasses.replace(right, **values))
    wrong.load_state_dict(port.state_dict())
    assert parity.relative_error(model, wrong, image, least=0.01) > 5 * parity.TOLERANCE


def test_training_step_equals_the_port(pair, image):
    kind, _, port = pair
    parity.assert_step_equal(ours(kind, dropout=0.0, drop_path=0.0), port, image)


# ---------------------------------------------------------------- transformers, live

LIVE = {
    "b0": dict(decoder_hidden_size=256),
    "b1": dict(decoder_hidden_size=256, hidden_sizes=[64, 128, 320, 512]),
    "test": dict(decoder_hidden_size=16, hidden_sizes=[8, 16, 40, 64], depths=[1, 1, 1, 1]),
}


class Live(torch.nn.Module):
    """transformers' SegFormer, its logits (stride 4) brought to the image's size as its own loss does."""

    def __init__(self, size):
        super().__init__()
        transformers = pytest.importorskip("transformers", reason="parity needs the extra [parity]")
        self.segmenter = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=5, **LIVE[size]))

    def forward(self, image):
        return F.interpolate(self.segmenter(image).logits, image.shape[2:], mode="bilinear", align_corners=False)


@pytest.fixture(scope="module", params=["b0", "b1"])
def live(request):
    port = parity.redraw(Live(request.param), parity.images((1, 64, 96, 3)), classifier="segmenter.decode_head.classifier")
    model = create_model(f"segformer_{request.param}", num_classes=5, block_eps=1e-5)
    report = from_torch.load(model, port.state_dict())
    assert report.key_mapping == "transformers" and report.origin == "segmenter."
    assert not report.initialised and not report.adapted
    assert report.ignored == ("segmenter.decode_head.batch_norm.num_batches_tracked",)
    return model, port


@pytest.mark.full
@pytest.mark.parametrize("size", [(64, 96), (100, 132)])
def test_true_size_logits_equal_transformers(live, size):
    model, port = live
    assert parity.relative_error(model, port, parity.images((1, *size, 3))) <= parity.TOLERANCE


# ---------------------------------------------------------------- names, tensors in parts, encoders alone

KEY, VALUE = (f"segmenter.segformer.stages.2.blocks.0.attention.{n}_proj.weight" for n in "kv")


@pytest.fixture(scope="module")
def tiny_live(image):
    return parity.redraw(Live("test"), image, classifier="segmenter.decode_head.classifier")


def tiny():
    return create_model("segformer_test", num_classes=5, block_eps=1e-5)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_published_files_and_live_models_give_the_same_network(tiny_live, tmp_path):
    tiny_live.segmenter.save_pretrained(tmp_path)  # writes the names of published files
    file = tmp_path / "model.safetensors"
    keys = torch_files.read(file)
    assert "segformer.encoder.block.0.0.attention.self.key.weight" in keys and "decode_head.linear_c.0.proj.weight" in keys
    from_file, from_dict = tiny(), tiny()
    assert from_torch.load(from_file, file).key_mapping == "transformers"
    from_torch.load(from_dict, tiny_live.state_dict())
    assert_same(from_torch.export(from_file), from_torch.export(from_dict))


def test_keys_and_values_are_joined_and_cut_again(tiny_live):
    theirs = {k: v.numpy() for k, v in tiny_live.state_dict().items() if "num_batches" not in k}
    model = tiny()
    from_torch.load(model, theirs)
    own = from_torch.export(model)
    np.testing.assert_array_equal(own["encoder.stages.2.0.attn.kv.weight"], np.concatenate([theirs[KEY], theirs[VALUE]]))
    assert_same(from_torch.export(model, names=theirs), theirs)  # parts of the shapes given
    assert_same(from_torch.export(model, names=list(theirs)), theirs)  # equal parts


def test_parts_that_do_not_join_are_named_and_nothing_is_loaded(tiny_live):
    theirs = {k: v.numpy() for k, v in tiny_live.state_dict().items()}
    model = tiny()
    before = from_torch.export(model)
    with pytest.raises(MismatchError, match=r"parts of encoder\.stages\.2\.0\.attn\.kv\.weight cannot be joined: #1"):
        from_torch.load(model, {k: v for k, v in theirs.items() if k != KEY})
    with pytest.raises(MismatchError, match=r"expected \[80, 40\] for .*attn\.kv\.weight, found \[40, 40\]"):
        from_torch.load(model, {k: v for k, v in theirs.items() if k != VALUE})
    with pytest.raises(MismatchError, match=r"cannot be joined: #0 .*\[40, 40\], #1 .*\[40, 39\]"):
        from_torch.load(model, theirs | {VALUE: theirs[VALUE][:, 1:]})
    with pytest.raises(MismatchError, match=r"no key for|belongs to no tensor"):
        from_torch.export(model, names=[k for k in theirs if k != KEY])
    assert_same(from_torch.export(model), before)


def test_an_encoder_alone_is_loaded_and_the_other_parts_stay(image):
    port = parity.redraw(SegFormer(*TINY), image, classifier="decode_head.linear_pred")
    file = {k.removeprefix("backbone."): v.numpy() for k, v in port.state_dict().items() if k.startswith("backbone.")}
    file |= {"head.weight": np.zeros((1000, 64), np.float32), "head.bias": np.zeros(1000, np.float32)}
    model = ours("official")
    before = from_torch.export(model)
    with pytest.raises(MismatchError, match="missing decoder"):
        from_torch.load(model, file)
    report = from_torch.load(model, file, only="encoder.")
    assert report.ignored == ("head.weight", "head.bias")
    assert {n for n, _ in report.initialised} == {n for n in before if not n.startswith("encoder.")}
    after = from_torch.export(model)
    np.testing.assert_array_equal(after["encoder.norms.3.bias"], file["norm4.bias"])
    assert_same({n: after[n] for n, _ in report.initialised}, {n: before[n] for n, _ in report.initialised})
    full = ours("official")
    from_torch.load(full, port.state_dict())
    whole = from_torch.export(full)
    assert_same({n: after[n] for n in report.loaded}, {n: whole[n] for n in report.loaded})


def test_within_only_nothing_may_differ(image):
    model = ours("official")
    file = {k: v.numpy() for k, v in SegFormer(*TINY).backbone.state_dict().items()}
    with pytest.raises(MismatchError, match=r"1 differences.*\n  missing encoder\.norms\.3\.bias"):
        from_torch.load(model, {k: v for k, v in file.items() if k != "norm4.bias"}, only="encoder.")
    with pytest.raises(MismatchError, match=r"unexpected block1\.0\.extra"):
        from_torch.load(model, file | {"block1.0.extra": np.zeros(3)}, only="encoder.")
    with pytest.raises(ConfigError, match=r"'encodr\.'.*classifier\., decoder\., encoder\."):
        from_torch.load(model, file, only="encodr.")
