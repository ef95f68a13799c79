"""Memory by stage comes from XLA's plan: places that values of a stage have in its buffers, and nothing without a plan."""

import types

import jax
import jax.numpy as jnp

from jaxseg.experiments import stages


def program():
    def f(x, w):
        with jax.named_scope("layer:down.0"):
            x = jnp.tanh(x @ w)
        with jax.named_scope("layer:up"):
            return jnp.tanh(x @ w.T).sum()

    spec = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    return jax.jit(jax.grad(f)).lower(spec, spec).compile()


def test_every_stage_has_the_bytes_that_its_values_occupy():
    compiled = program()
    found, plan = stages.memory(compiled), compiled.memory_analysis()
    assert set(found) == {"down.0", "up"} and all(size % (64 * 64 * 4) == 0 and size > 0 for size in found.values())
    assert max(found.values()) <= plan.temp_size_in_bytes + plan.output_size_in_bytes


def test_without_a_plan_nothing_is_known():
    for plan in (b"", b"\xff\xff"):
        analysis = types.SimpleNamespace(serialized_buffer_assignment_proto=plan)
        compiled = types.SimpleNamespace(
            memory_analysis=lambda analysis=analysis: analysis, runtime_executable=program().runtime_executable
        )
        assert stages.memory(compiled) == {}
    assert stages.memory(types.SimpleNamespace()) == {}


def test_places_that_overlap_count_once():
    assert stages._covered([(0, 0, 8), (0, 4, 12), (0, 20, 24), (1, 0, 8)]) == 24
