"""Programs in parts: the same results, donated memory, results of their own, and what is cut at all."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.programs import parts
from jaxseg.programs.program import Program
from jaxseg.train import mesh as meshes


def step(state, x):
    """A chain of operations whose results repeat an argument and one another."""
    y = x
    for i in range(12):
        y = jnp.sin(y) * (i + 1) + state["scale"]
    key = jax.random.fold_in(jax.random.key(0), state["step"])
    drawn = jax.random.uniform(key, x.shape)
    count = state["step"] + 1
    for _ in range(12):
        y = jnp.cos(y + drawn)
    new = {"scale": state["scale"] + y.mean(), "step": count, "rate": state["rate"]}
    return new, {"step": count, "sum": y.sum(), "rate": state["rate"]}


def arguments(place):
    state = {"scale": np.float32([[1.5, 2]]), "step": np.int32(3), "rate": np.float32(0.5)}
    return jax.device_put((state, np.arange(6, dtype=np.float32).reshape(3, 2)), place)


@pytest.fixture
def place(monkeypatch, without_jaxs_cache):
    monkeypatch.setattr(parts, "PART", 20)
    monkeypatch.setattr(parts, "MOST", 4)
    return meshes.replicated(meshes.make(1))


def compiled(place, function=step):
    return Program(jax.jit(function, donate_argnums=0), place=place).lower(*arguments(place), whole=False).compile()


@pytest.mark.filterwarnings("error")
def test_parts_compute_what_the_whole_computes_and_so_does_what_is_read_from_their_dump(place):
    program = compiled(place)
    assert len(program.program.parts) > 2
    want = jax.jit(step)(*arguments(place))
    read = parts.load(pickle.loads(pickle.dumps(parts.dump(program.program))), jax.devices()[:1])
    for found in (program(*arguments(place)), read(*arguments(place))):
        assert jax.tree.structure(found) == jax.tree.structure(want)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, want)


def test_parts_are_read_in_turn_while_the_interpreter_ends(monkeypatch):
    def ending(*arguments):
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(parts.ThreadPoolExecutor, "submit", ending)
    assert parts._at_once(str, (1, 2)) == ("1", "2")


def test_donated_memory_is_gone_and_each_result_has_its_own(place):
    program, given = compiled(place), arguments(place)
    new, metrics = program(*given)
    assert given[0]["scale"].is_deleted() and given[0]["step"].is_deleted() and not given[1].is_deleted()
    program(new, given[1])  # donates the state: what was reported of the step before can still be read
    assert [int(metrics["step"]), float(metrics["rate"])] == [4, 0.5]


def test_memory_counts_what_parts_hand_on(place):
    program = compiled(place)
    memory = program.memory_analysis()
    assert memory.argument_size_in_bytes == 2 * 4 + 4 + 4 + 6 * 4
    assert memory.output_size_in_bytes == 2 * 4 + 4 + 4 + 4 + 4 + 4
    assert memory.temp_size_in_bytes >= 6 * 4
    assert program.as_text().count("ENTRY") == len(program.program.parts)


def test_small_programs_and_those_of_one_loop_are_whole(place, monkeypatch):
    def looped(state, x):
        return jax.lax.scan(lambda s, _: (step(s, x)[0], None), state, None, length=2)

    assert not isinstance(compiled(place, looped).program, parts.InParts)
    monkeypatch.setattr(parts, "PART", 20_000)
    assert not isinstance(compiled(place).program, parts.InParts)
    assert not isinstance(compiled(None).program, parts.InParts)
