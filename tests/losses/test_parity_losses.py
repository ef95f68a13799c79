"""Values and gradients against MONAI and PyTorch, in two and three dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses import TERMS

torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
monai = pytest.importorskip("monai.losses", reason="parity needs the extra [parity]")

RANDOM = np.random.default_rng(0)
DATA = {
    k: (RANDOM.normal(0, 2, (2, *size, k)).astype(np.float32), RANDOM.integers(0, max(k, 2), (2, *size)))
    for k, size in ((1, (6, 7)), (4, (4, 5, 3)))
}
DATA[4][1][0][DATA[4][1][0] == 2] = 0  # class 2 is absent from the first sample

ONE_HOT, SOFT = dict(to_onehot_y=True), dict(to_onehot_y=True, softmax=True)
CASES = [
    ("dice", 1, {}, monai.DiceLoss(sigmoid=True)),
    ("dice", 4, {}, monai.DiceLoss(**SOFT)),
    ("dice", 4, {"background": False, "squared": True}, monai.DiceLoss(**SOFT, include_background=False, squared_pred=True)),
    (
        "dice",
        4,
        {"batch": True, "smooth_nr": 1.0, "smooth_dr": 2.0},
        monai.DiceLoss(**SOFT, batch=True, smooth_nr=1.0, smooth_dr=2.0),
    ),
    ("dice", 4, {"activation": "sigmoid"}, monai.DiceLoss(**ONE_HOT, sigmoid=True)),
    ("generalized_dice", 1, {}, monai.GeneralizedDiceLoss(sigmoid=True)),
    ("generalized_dice", 4, {}, monai.GeneralizedDiceLoss(**SOFT)),
    (
        "generalized_dice",
        4,
        {"batch": True, "background": False},
        monai.GeneralizedDiceLoss(**SOFT, batch=True, include_background=False),
    ),
    ("tversky", 1, {"alpha": 0.3, "beta": 0.7}, monai.TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7)),
    ("tversky", 4, {"batch": True, "background": False}, monai.TverskyLoss(**SOFT, batch=True, include_background=False)),
    ("focal", 1, {}, monai.FocalLoss()),
    ("focal", 1, {"alpha": 0.25, "gamma": 1.5}, monai.FocalLoss(alpha=0.25, gamma=1.5)),
    (
        "focal",
        4,
        {"activation": "sigmoid", "alpha": (0.1, 0.2, 0.3, 0.4)},
        monai.FocalLoss(to_onehot_y=True, alpha=(0.1, 0.2, 0.3, 0.4)),
    ),
    ("focal", 4, {}, monai.FocalLoss(to_onehot_y=True, use_softmax=True)),
    ("focal", 4, {"alpha": 0.25, "gamma": 0.5}, monai.FocalLoss(to_onehot_y=True, use_softmax=True, alpha=0.25, gamma=0.5)),
    ("hausdorff", 1, {}, monai.HausdorffDTLoss(sigmoid=True)),
    ("hausdorff", 4, {"background": True, "alpha": 1.5}, monai.HausdorffDTLoss(**SOFT, include_background=True, alpha=1.5)),
    ("hausdorff", 4, {}, monai.HausdorffDTLoss(**SOFT, include_background=False)),
    ("bce", 1, {}, torch.nn.BCEWithLogitsLoss()),
    ("bce", 1, {"positive_weight": 3.0}, torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))),
    ("cross_entropy", 4, {}, torch.nn.CrossEntropyLoss()),
    (
        "cross_entropy",
        4,
        {"class_weights": (0.5, 1.0, 2.0, 4.0)},
        torch.nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 2.0, 4.0])),
    ),
    ("nnunet", 4, {"batch": False}, monai.DiceCELoss(**SOFT, include_background=False)),
    ("nnunet", 4, {}, monai.DiceCELoss(**SOFT, include_background=False, batch=True)),
    ("nnunet", 1, {"batch": False}, monai.DiceCELoss(sigmoid=True)),
]


@pytest.mark.parametrize("name,k,options,theirs", CASES)
def test_value_and_gradient_agree(name, k, options, theirs):
    logits, labels = DATA[k]

    def ours(z):
        total, count = TERMS[name](z, labels, **options)
        return total / count

    value, grad = jax.jit(jax.value_and_grad(ours))(jnp.asarray(logits))
    z = torch.tensor(np.moveaxis(logits, -1, 1).copy(), requires_grad=True)
    if isinstance(theirs, torch.nn.CrossEntropyLoss):
        expected = theirs(z, torch.tensor(labels))
    else:
        expected = theirs(z, torch.tensor(labels)[:, None].float())
    expected.backward()
    expected_grad = np.moveaxis(z.grad.numpy(), 1, -1)
    np.testing.assert_allclose(value, expected.item(), rtol=2e-6)  # float32 on both sides, sums in another order
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=2e-6 * np.abs(expected_grad).max())
