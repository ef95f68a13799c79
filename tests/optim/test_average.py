"""The moving average of weights."""

import jax.numpy as jnp
import numpy as np

from jaxseg.optim import average


def test_the_average_is_the_geometric_sum_of_what_it_has_seen():
    values = [np.float32(v) for v in (1.0, 3.0, -2.0, 5.0)]
    mean = average.init({"w": jnp.asarray([values[0]])})
    for step, value in enumerate(values[1:]):
        mean = average.update(mean, {"w": jnp.asarray([value])}, jnp.int32(step), 0.9)
    expected = 0.9**3 * 1.0 + 0.1 * (0.9**2 * 3.0 + 0.9 * -2.0 + 5.0)
    np.testing.assert_allclose(mean["w"], [expected], rtol=1e-6)


def test_warm_up_forgets_the_start_and_ends_at_the_decay():
    found = [float(average.decay_at(jnp.int32(t), 0.99, warmup=True)) for t in (0, 1, 90, 10_000)]
    np.testing.assert_allclose(found, [0.1, 2 / 11, 0.91, 0.99], rtol=1e-6)
    assert float(average.decay_at(jnp.int32(0), 0.99)) == np.float32(0.99)


def test_the_average_is_float32_and_a_copy():
    params = {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2)}
    mean = average.init(params)
    assert all(v.dtype == jnp.float32 for v in mean.values()) and mean["b"] is not params["b"]
    assert average.update(mean, params, jnp.int32(0), 0.5)["w"].dtype == jnp.float32
