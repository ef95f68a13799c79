"""SegResNet, DynUNet, BasicUNet, UNet and MedNeXt equal MONAI's: parameters, logits, and gradients of a step in float64."""

import pytest

torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
nets = pytest.importorskip("monai.networks.nets", reason="parity needs the extra [parity]")

import numpy as np  # noqa: E402

from jaxseg.models import create_model, functional  # noqa: E402
from jaxseg.weights import from_torch  # noqa: E402
from tests.models.ports import parity  # noqa: E402

pytestmark = pytest.mark.usefixtures("unoptimised")


class DynUNet(nets.DynUNet):
    """MONAI's, whose coarser heads are returned beside the logits, before it repeats them."""

    def forward(self, x):
        out = self.output_block(self.skip_layers(x))
        return (out, list(self.heads)) if self.training and self.deep_supervision else out


class MedNeXt(nets.MedNeXt):
    """MONAI's, with the coarser heads in a list."""

    def forward(self, x):
        out = super().forward(x)
        return (out[0], list(out[1:])) if isinstance(out, tuple) else out


def mednext(variant, *, rank, kernel, **more):
    from monai.networks.nets.mednext import create_mednext

    return create_mednext(variant, rank, 1, 2, kernel, **more)


STRIDES = [1, 2, 2, 2, 2, 2]
COUNTS = [
    ("segresnet", {}, (3, 2), lambda rank: nets.SegResNet(rank, 16, 4, 3, dropout_prob=0.2)),
    ("basicunet", {}, (3, 2), lambda rank: nets.BasicUNet(rank, 1, 2)),
    (
        "monai_unet",
        {},
        (3, 2),
        lambda rank: nets.UNet(rank, 1, 2, (16, 32, 64, 128, 256), (2,) * 4, num_res_units=2, norm="batch"),
    ),
    ("dynunet", {}, (3, 2), lambda rank: nets.DynUNet(rank, 4, 3, [3] * 6, STRIDES, STRIDES[1:])),
    ("dynunet", {"residual": True}, (3,), lambda rank: nets.DynUNet(rank, 4, 3, [3] * 6, STRIDES, STRIDES[1:], res_block=True)),
    *(
        (f"mednext_{s}", {"kernel": k}, (rank,), lambda rank, s=s, k=k: mednext(s, rank=rank, kernel=k))
        for s in "sbml"
        for k, rank in ((3, 3), (5, 2))
    ),
]


@pytest.mark.parametrize("name, options, ranks, build", COUNTS, ids=[f"{n}-{o}" for n, o, *_ in COUNTS])
def test_every_size_has_the_references_parameters(name, options, ranks, build):
    for rank in ranks:
        with torch.device("meta"):
            theirs = sum(p.numel() for p in build(rank).parameters())
        assert functional.parameter_count(create_model(name, rank=rank, abstract=True, **options)) == theirs


def families():
    """name -> (ours, a small network of the reference, image)."""
    slim = dict(width=8, blocks_down=(1, 2), blocks_up=(2,), norm="batch")
    lists = ([(1, 3, 3), 3, 3], [1, (1, 2, 2), 2], [(1, 2, 2), 2])
    norms = (("INSTANCE", {"affine": True}), ("leakyrelu", {"negative_slope": 0.01}))
    plain = dict(strides=(1, 2, 2, 1), kernels=(5, 3, 3, 3), widths=(4, 6, 8, 8), aux=2, up_bias=True)
    return {
        "segresnet": (
            ("segresnet_test", dict(rank=3, dropout=0.0, blocks_down=(1, 2), blocks_up=(1,))),
            lambda: nets.SegResNet(3, 4, 1, 2, norm=("GROUP", {"num_groups": 2}), blocks_down=(1, 2), blocks_up=(1,)),
            (2, 8, 12, 8, 1),
        ),
        "segresnet-transposed-2d": (
            ("segresnet", dict(rank=2, dropout=0.0, upsampling="transposed", **slim)),
            lambda: nets.SegResNet(2, 8, 4, 3, norm="batch", blocks_down=(1, 2), blocks_up=(2,), upsample_mode="deconv"),
            (2, 24, 16, 4),
        ),
        "basicunet": (
            ("basicunet", dict(rank=2, widths=(4, 4, 4, 6, 8, 4))),
            lambda: nets.BasicUNet(2, 1, 2, (4, 4, 4, 6, 8, 4)),
            (1, 33, 50, 1),
        ),
        "unet": (
            ("monai_unet_test", {}),
            lambda: nets.UNet(3, 1, 2, (4, 6, 8), (2, 2), num_res_units=2, norm="batch"),
            (2, 8, 12, 8, 1),
        ),
        "unet-2d": (
            ("monai_unet", dict(rank=2, widths=(4, 6, 6), strides=(2, 1), units=0, kernel=5, norm="instance_plain", bias=False)),
            lambda: nets.UNet(2, 1, 2, (4, 6, 6), (2, 1), kernel_size=5, bias=False),
            (2, 16, 12, 1),
        ),
        "dynunet-residual": (
            ("dynunet_test", {}),
            lambda: DynUNet(3, 1, 2, *lists, filters=(4, 6, 8), res_block=True, deep_supervision=True, deep_supr_num=1),
            (2, 6, 8, 12, 1),
        ),
        "dynunet-2d": (
            ("dynunet", dict(rank=2, **plain)),
            lambda: DynUNet(
                2, 4, 3, [5, 3, 3, 3], [1, 2, 2, 1], [2, 2, 1], (4, 6, 8, 8), None, *norms, True, 2, False, True
            ),
            (2, 16, 12, 4),
        ),
        "mednext": (
            ("mednext_test", dict(kernel=5)),
            lambda: MedNeXt(3, 4, 1, 2, (2, 3), (3, 2), 2, 5, True, True, (1, 1), 1, (1, 1)),
            (2, 8, 8, 12, 1),
        ),
        "mednext-2d": (
            ("mednext_s", dict(rank=2, width=4, blocks=(1, 2), ratios=(2, 3))),
            lambda: MedNeXt(2, 4, 1, 2, (2,), (2,), 3, 3, False, True, blocks_down=(1,), blocks_bottleneck=2, blocks_up=(1,)),
            (2, 8, 12, 1),
        ),
    }  # fmt: skip


CLASSIFIERS = {
    "segresnet": "conv_final.2",
    "basicunet": "final_conv",
    "dynunet": "output_block",
    "mednext": "out_0",
    "unet": "model.2",
}


SLOW = ("segresnet-transposed-2d", "unet", "unet-2d", "dynunet-2d", "mednext-2d")
CASES = [pytest.param(case, marks=pytest.mark.full if case in SLOW else ()) for case in families()]


@pytest.mark.parametrize("case", CASES)
def test_logits_and_a_training_step_equal_the_reference(case):
    (name, options), build, shape = families()[case]
    image = parity.images(shape)
    peer = parity.redraw(build(), image, classifier=CLASSIFIERS[case.partition("-")[0]])
    if case in ("segresnet", "mednext"):  # in float32 too, as a user computes: 1e-5 of the logits' deviation
        model = create_model(name, **options)
        report = from_torch.load(model, peer.state_dict())
        assert report.key_mapping == "monai" and not report.initialised and not report.adapted
        assert parity.relative_error(model, peer, image) <= 1e-5
    with parity.in_double():
        parity.assert_step_equal(create_model(name, **options), peer, image.astype(np.float64), tolerance=1e-7)


def test_the_last_voxel_is_repeated_where_an_odd_size_came_back_even():
    ours = create_model("basicunet_test")
    up = ours.ups[0]
    x, skip = np.ones((1, 2, 2, 2, 8), np.float32), np.ones((1, 5, 4, 4, 6), np.float32)
    fitted = np.asarray(up._fit(up.up(x), skip.shape[1:-1]))
    assert fitted.shape[1] == 5 and np.array_equal(fitted[:, 4], fitted[:, 3])


def test_the_projects_own_names_of_mednext_are_known():
    """MIC-DKFZ/MedNeXt counts its decoder from the finest level: up_3 and dec_block_3 come first."""
    model = create_model("mednext_s", width=2, blocks=(1,) * 5, ratios=(1,) * 5, aux=True)
    arrays = from_torch.export(model)
    turn = lambda name: name.replace(".blocks.", ".").replace("enc_stages.", "enc_block_").replace("down_blocks.", "down_")
    theirs = {}
    for name, array in arrays.items():
        kind, _, rest = name.partition(".")
        if kind in ("up_blocks", "dec_stages", "out_blocks"):
            i, _, rest = rest.partition(".")
            new = {
                "up_blocks": f"up_{3 - int(i)}.",
                "dec_stages": f"dec_block_{3 - int(i)}.",
                "out_blocks": f"out_{4 - int(i)}.conv_out.",
            }
            name = new[kind] + rest.removeprefix("blocks.")
            theirs[name] = array
        else:
            theirs[turn(name).replace("out_0.", "out_0.conv_out.")] = array
    report = from_torch.load(create_model("mednext_s", width=2, blocks=(1,) * 5, ratios=(1,) * 5, aux=True, seed=1), theirs)
    assert report.key_mapping == "official" and len(report.loaded) == len(arrays)
