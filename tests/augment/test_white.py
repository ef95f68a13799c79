"""White noise from hashed positions is as white, and as normal, as noise that was drawn one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxseg.augment import white

N = 1 << 18


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """Normal numbers [4, 2^18] under keys that follow each other: two of a split, two folded in."""
    keys = jnp.stack([*jax.random.split(jax.random.key(0)), *(jax.random.fold_in(jax.random.key(1), i) for i in (0, 1))])
    return np.asarray(jax.jit(jax.vmap(lambda k: white.normal(k, (N,))))(keys), np.float64)


def test_moments_are_those_of_a_normal(drawn):
    for order, (expected, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96), (0, 945), (15, 10170)], 1):
        bound = 5 * np.sqrt(variance / N)  # five standard deviations of a mean of N powers
        assert (np.abs((drawn**order).mean(1) - expected) < bound + 2e-3 * expected).all(), order  # 2e-3: the fit, far out


def test_the_distribution_is_the_normals(drawn):
    for row in drawn:
        assert scipy.stats.kstest(row, "norm").pvalue > 1e-4
    tails = np.array([(np.abs(drawn) > z).sum() for z in (3.0, 4.0)])
    expected = drawn.size * 2 * scipy.stats.norm.sf([3.0, 4.0])
    assert (np.abs(tails - expected) < 5 * np.sqrt(expected) + 0.01 * expected).all()
    assert np.abs(drawn).max() < 6.4 and np.unique(np.float32(drawn[0])).size > 0.95 * N  # few ties: float32 near 0 is finer


def test_neighbours_in_a_volume_channels_and_keys_are_uncorrelated(drawn):
    bound = 5 / np.sqrt(N)
    volume = drawn[0].reshape(32, 32, 64, 4)  # steps of 1, 4, 256 and 8192 positions
    for axis in range(4):
        for step in (1, 2):
            ahead, behind = (
                np.take(volume, range(*ends), axis) for ends in ((step, volume.shape[axis]), (0, volume.shape[axis] - step))
            )
            for f in (np.asarray, np.square, np.abs):  # of a sign, a size: a linear look sees neither alone
                a, b = f(ahead) - f(drawn[0]).mean(), f(behind) - f(drawn[0]).mean()
                assert abs((a * b).mean() / f(drawn[0]).var()) < 5 / np.sqrt(a.size), (axis, step)
    other = np.corrcoef(drawn) - np.eye(len(drawn))
    squares = np.corrcoef(drawn**2) - np.eye(len(drawn))
    assert np.abs(other).max() < bound and np.abs(squares).max() < bound


def test_every_bit_is_fair_and_none_follows_another():
    words = np.asarray(jax.jit(lambda k: white._bits(k, (N,)))(jax.random.key(5)))
    bits = (words[:, None] >> np.arange(32, dtype=np.uint32) & 1).astype(np.float32) * 2 - 1
    assert np.abs(bits.mean(0)).max() < 5 / np.sqrt(N)
    product = bits.T @ bits / N - np.eye(32)  # pairs of bits of one word
    following = bits[1:].T @ bits[:-1] / N  # and of one word and the next
    assert max(np.abs(product).max(), np.abs(following).max()) < 5.5 / np.sqrt(N)  # 1,500 pairs
    assert np.unique(words).size == N  # a bijection


def test_the_spectrum_is_flat(drawn):
    power = np.abs(np.fft.rfft(drawn[3])[1:-1]) ** 2 / N  # exponential with mean 1 where the noise is white
    assert scipy.stats.kstest(power, "expon").pvalue > 1e-4 and power.max() < 13.2 + 8  # log of the count, and room


def test_a_number_depends_on_the_key_and_its_position_alone():
    key, bits = jax.random.key(3), jax.jit(white._bits, static_argnums=1)
    line = bits(key, (60,))
    np.testing.assert_array_equal(bits(key, (3, 4, 5)).reshape(-1), line)
    np.testing.assert_array_equal(bits(key, (20,)), line[:20])
    assert not np.array_equal(bits(jax.random.key(4), (60,)), line)


def test_uniform_numbers_are_even_and_inside():
    x = np.asarray(white.uniform(jax.random.key(2), (N,)))
    assert np.abs(x).max() < 1 and (x != 0).all()
    assert scipy.stats.kstest(x, "uniform", (-1, 2)).pvalue > 1e-4
