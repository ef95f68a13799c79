"""Compiled programs on disk: read where everything that they depend on is the same, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from configs import ich_segnext
from jaxseg.programs import conditions, program
from jaxseg.programs import kept as programs
from jaxseg.train import kept as of_runs
from jaxseg.train import mesh as meshes
from jaxseg.types import ConfigError, StorageError
from tests.config import test_every_key

DEVICES = jax.devices()


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv(programs.SWITCH, "on")
    monkeypatch.setattr(programs.files, "cache_root", lambda: tmp_path)

    def of(learnt=(), **changes):
        config = ich_segnext.get_config("quick").unlock()
        for key, value in changes.items():
            group, _, leaf = key.rpartition("__")
            place = config[group] if group else config
            with place.ignore_type():
                place[leaf] = value
        return of_runs.of_step(config).learns(learnt)

    return of


def step(seed: float) -> program.Program:
    return program.Program(jax.jit(lambda x, own, more: x * own + more), jnp.float32(seed), derive=lambda x: (x.sum(),))


def saved(kept, x, seed=2.0):
    own = step(seed)
    kept.save(own, own.lower(x).compile(), x)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_kept_step_is_read_with_another_seed_and_learning_rate_and_gives_the_same(kept, devices):
    x = jax.device_put(jnp.arange(4.0), meshes.batched(meshes.make(devices)))
    assert kept().load(step(2.0), x) is None
    saved(kept(), x)
    found = kept(seed=7, optim__lr=0.5, train__epochs=9, eval__threshold=0.1).load(step(3.0), x)
    np.testing.assert_array_equal(found(x), step(3.0)(x))
    assert found.memory_analysis() is not None


def test_what_the_program_depends_on_is_asked_for(kept, monkeypatch):
    x = jnp.arange(4.0)
    saved(kept(), x)
    assert kept().load(step(2.0), x) is not None
    for other in (kept(train__dtype="bfloat16"), kept(loss__terms=(("bce", 1.0),)), kept(train__remat=("first",))):
        assert other.load(step(2.0), x) is None
    assert kept(learnt=(("whole tumour", (1, 2)),)).load(step(2.0), x) is None
    for other in (jnp.arange(5.0), x.astype(jnp.bfloat16), jax.device_put(x, jax.devices()[1])):
        assert kept().load(step(2.0), other) is None
    with jax.default_matmul_precision("highest"):
        assert kept().load(step(2.0), x) is None
    monkeypatch.setenv("JAXSEG_CONV", "xla")
    assert kept().load(step(2.0), x) is None
    monkeypatch.delenv("JAXSEG_CONV")
    monkeypatch.setattr(conditions, "software", lambda: {"the code of jaxseg": "another"})
    assert kept().load(step(2.0), x) is None


def test_a_step_is_read_ahead_and_taken_only_where_it_is_the_right_one(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(programs.jax, "devices", lambda *of: DEVICES[:1])
    x, read = jnp.arange(4.0), []
    original = programs._read
    monkeypatch.setattr(programs, "_read", lambda path, devices: read.append(path) or original(path, devices))
    assert kept().begin().load(step(2.0), x) is None  # nothing yet
    saved(kept(), x)
    read.clear()
    found = kept().begin().load(step(3.0), x)
    np.testing.assert_array_equal(found(x), step(3.0)(x))
    assert len(read) == 1  # by the thread alone
    other = kept().begin()
    assert other.learns("regions").load(step(2.0), x) is None  # another question: what was read ahead is not used
    other = kept().begin()
    assert other.load(step(2.0), jnp.arange(5.0)) is None
    (last,) = tmp_path.glob("programs/*.last")
    for text in ("../elsewhere.program", "gone.program", ""):
        last.write_text(text)
        assert kept().begin().load(step(2.0), x) is not None


def test_every_key_that_changes_the_step_is_asked_for():
    changing = [
        key for key, rows in test_every_key.ROWS.items() if any(what in ("step", "weights") for _, what, *_ in rows.values())
    ]
    assert len(changing) > 10
    assert not [key for key in changing if key in of_runs.APART_KEYS or key.partition(".")[0] in of_runs.APART]


def test_damaged_files_and_those_that_others_may_write_are_not_read(kept, tmp_path):
    x = jnp.arange(4.0)
    saved(kept(), x)
    (path,) = tmp_path.glob("programs/*.program")
    path.chmod(0o620)
    assert kept().load(step(2.0), x) is None and path.exists()
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert kept().load(step(2.0), x) is None and not path.exists()


def test_without_a_home_folder_nothing_is_kept(kept, monkeypatch):
    def missing():
        raise StorageError("no home folder")

    monkeypatch.setattr(programs.files, "cache_root", missing)
    alone = kept()
    saved(alone, jnp.arange(4.0))
    assert alone.load(step(2.0), jnp.arange(4.0)) is None


def test_a_step_from_jaxs_own_cache_is_not_kept_because_it_would_be_written_without_its_code(kept, tmp_path):
    def compiled():
        jax.clear_caches()  # what another process would find
        compilation_cache.reset_cache()
        own = step(2.0)
        return own, own.lower(x).compile()

    x, names = (
        jnp.arange(6.0),
        ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes"),
    )
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    try:
        for key, value in zip(before, (str(tmp_path / "cache"), 0.0, -1)):
            jax.config.update(key, value)
        own, first = compiled()
        assert not first.fetched
        own, second = compiled()
        assert second.fetched
        kept().save(own, second, x)
        assert kept().load(step(2.0), x) is None
        kept().save(own, first, x)
        np.testing.assert_array_equal(kept().load(step(2.0), x)(x), own(x))
    finally:
        for key, value in before.items():
            jax.config.update(key, value)
        compilation_cache.reset_cache()


def test_only_so_many_are_kept(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MOST", 2)
    for n in range(1, 4):
        saved(kept(), jnp.arange(float(n)))
    assert len(list(tmp_path.glob("programs/*.program"))) == 2 and len(list(tmp_path.glob("programs/*.last"))) == 1


def test_steps_with_own_code_and_of_those_who_do_not_want_it_are_not_kept(kept, monkeypatch):
    assert kept().usable()
    for changes in (
        {"model__name": "my_module:Net"},
        {"loss__terms": (("my_module:loss", 1.0),)},
        {"train__augment": (("my_module:Flip", 0.5, {}),)},
        {"optim__name": "my_module:adam"},
    ):
        assert not kept(**changes).usable()
    monkeypatch.setenv(programs.SWITCH, "off")
    assert not kept().usable()
    monkeypatch.setenv(programs.SWITCH, "no")
    with pytest.raises(ConfigError, match="got JAXSEG_KEEP_PROGRAMS='no'; must be on or off"):
        kept().usable()


def test_calls_take_functions_among_their_arguments_and_memory_of_what_they_replace(kept, monkeypatch):
    def add(forward, x, total):
        traced.append(1)
        return total + forward(x)

    def called(scale, x, total):
        forward = jax.tree_util.Partial(lambda w, x: w["a"] * x - w["b"], {"a": jnp.float32(scale), "b": jnp.ones(3)})
        return programs.KeptCalls(add, kept(), (2,))(forward, x, total)

    traced: list[int] = []
    x, first, second = np.arange(3, dtype=np.float32), jnp.ones(3), jnp.ones(3)
    np.testing.assert_array_equal(called(2.0, x, first), [0, 2, 4])
    assert first.is_deleted() and len(traced) == 1
    np.testing.assert_array_equal(called(3.0, x, second), [0, 3, 6])  # another process: the weights are arguments
    assert second.is_deleted() and len(traced) == 1
    np.testing.assert_array_equal(called(2.0, np.arange(1, 4, dtype=np.float32), jnp.ones(3)), [2, 4, 6])
    assert len(traced) == 1
    np.testing.assert_array_equal(called(2.0, np.float32(3), jnp.ones(3)), [6, 6, 6])
    assert len(traced) == 2
    monkeypatch.setenv(programs.SWITCH, "off")
    np.testing.assert_array_equal(called(2.0, x, jnp.ones(3)), [0, 2, 4])
    assert len(traced) == 3
