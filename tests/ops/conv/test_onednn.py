"""oneDNN's convolutions compute what XLA's do, wherever a program takes them, and nothing breaks where they cannot be had.

What needs the extra's packages is skipped without them: pip install -e '.[onednn]'.
"""

import functools
import importlib.metadata
import importlib.util
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxseg import ops
from jaxseg.ops import devices
from jaxseg.ops.conv import reference
from jaxseg.ops.conv.cpu.onednn import library, primitive, table
from jaxseg.types import ConfigError
from tests.ops.conv import cases

CPU = Path("/proc/cpuinfo")
INSTALLED = library.wheels() is not None
needs_onednn = pytest.mark.skipif(
    not (INSTALLED and "avx512f" in CPU.read_text()),
    reason="oneDNN is not installed (pip install -e '.[onednn]')" if not INSTALLED else "this CPU has no AVX-512",
)
OWN = (
    cases.Case("16 to 24 channels, odd sizes", (2, 13, 9, 16), (3, 3), 24),
    cases.Case("3-D, odd sizes", (1, 5, 7, 6, 16), (3, 3, 3), 16),
    cases.Case("3-D strided", (1, 9, 8, 7, 16), (3, 3, 3), 32, stride=2),
    cases.Case("dilated, uneven padding", (1, 11, 12, 16), (3, 3), 16, pad=((2, 1), (3, 2)), dilation=2),
    cases.Case("three images on fewer threads or more", (3, 6, 5, 8), (3, 3), 16, stride=2),
    cases.Case("depthwise 3x3", (2, 9, 7, 32), (3, 3), 32, groups=32),
    cases.Case("groups of four channels", (1, 8, 9, 16), (3, 3), 16, groups=4),
    cases.Case("pieces whose weights are laid out differently", (1, 5, 5, 5, 320), (3, 3, 3), 320),
    cases.Case("192 outputs, which oneDNN keeps in blocks of 48", (1, 6, 6, 6, 192), (3, 3, 3), 192),
    cases.Case("192 outputs of an image, in blocks of 48", (1, 24, 24, 160), (3, 3), 192),
)
_name = lambda v: v.name if isinstance(v, cases.Case) else v


def _call(case, direction: str):
    """(static arguments, arrays) of a lowering."""
    x, w, g = cases.draw(case)
    return {"forward": ((), (x, w)), "input_gradient": ((case.x[1:-1],), (g, w)), "weight_gradient": ((case.kernel,), (x, g))}[
        direction
    ]


def _by_onednn(text: str) -> bool:
    return "jaxseg_onednn_conv" in text


def _same(found, wanted) -> None:
    """Equal up to the order of a sum: 1.5e-5 of the standard deviation was measured for 8,640 products."""
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-5 * float(jnp.std(wanted)))


@needs_onednn
@pytest.mark.parametrize("direction", cases.DIRECTIONS)
@pytest.mark.parametrize("case", (*OWN, *cases.DENSE, *cases.DEPTHWISE), ids=_name)
def test_onednn_equals_reference(case, direction):
    plain, (static, arrays) = getattr(reference, direction), _call(case, direction)
    own = jax.jit(functools.partial(primitive.over(plain, direction), case.spec, *static))
    if case in OWN:
        assert _by_onednn(own.lower(*arrays).as_text())
    _same(own(*arrays), jax.jit(functools.partial(plain, case.spec, *static))(*arrays))


@needs_onednn
def test_gradients_of_gradients_and_mapped_convolutions_equal_the_ordinary_ones(monkeypatch):
    x, w, _ = cases.draw(OWN[0])
    bend = lambda x, w: (ops.conv(x, w) ** 3).mean()
    second = lambda x, w: jax.grad(lambda x, w: sum((g**2).sum() for g in jax.grad(bend, (0, 1))(x, w)), (0, 1))(x, w)
    loss = lambda x, w: (ops.conv(x, w) ** 2).sum()
    work = (second, jax.vmap(jax.grad(loss, (0, 1)), (0, None)), jax.vmap(jax.grad(loss, (0, 1)), (None, 2)))
    arguments = ((x, w), (jnp.stack([x, 2 * x]), w), (x, jnp.stack([w, w + 1], 2)))
    own = [jax.jit(f)(*a) for f, a in zip(work, arguments)]
    assert _by_onednn(jax.jit(second).lower(x, w).as_text())
    monkeypatch.setenv("JAXSEG_ONEDNN", "off")
    for f, a, found in zip(work, arguments, own):
        plain = jax.jit(lambda *a, f=f: f(*a))
        assert not _by_onednn(plain.lower(*a).as_text())
        for u, v in zip(found, plain(*a)):
            _same(u, v)


@needs_onednn
def test_two_convolutions_at_once_do_not_disturb_each_other():
    picked = [(case, direction) for case in OWN[:2] for direction in cases.DIRECTIONS]
    calls = []
    for case, direction in picked:
        static, arrays = _call(case, direction)
        own = jax.jit(functools.partial(primitive.over(getattr(reference, direction), direction), case.spec, *static))
        calls.append((own.lower(*arrays).compile(), arrays))
    alone = [np.asarray(f(*a)) for f, a in calls]
    wrong = []

    def work(start: int) -> None:
        for n in range(60):
            f, a = calls[(start + n) % len(calls)]
            if not np.array_equal(f(*a), alone[(start + n) % len(calls)]):
                wrong.append(picked[(start + n) % len(calls)])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_onednn
def test_an_exported_program_does_not_need_onednn():
    x, w, _ = cases.draw(OWN[0])
    gradient = jax.jit(jax.grad(lambda x, w: (ops.conv(x, w) ** 2).sum(), (0, 1)))
    assert _by_onednn(gradient.lower(x, w).as_text())
    exported = jax.export.export(gradient)(x, w)
    assert not _by_onednn(exported.mlir_module())
    for found, wanted in zip(exported.call(x, w), gradient(x, w)):
        _same(found, wanted)


@needs_onednn
def test_a_batch_over_eight_devices_is_not_gathered():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    case = cases.Case("", (16, 6, 7, 16), (3, 3), 16)
    x, w, _ = cases.draw(case)
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    copied = jax.device_put(w, NamedSharding(mesh, PartitionSpec()))
    gradient = jax.jit(jax.grad(lambda x, w: (ops.conv(x, w) ** 2).sum(), (0, 1)))
    wanted = gradient(x, w)
    per_device = jax.jit(
        jax.shard_map(ops.conv, mesh=mesh, in_specs=(PartitionSpec("data"), PartitionSpec()), out_specs=PartitionSpec("data"))
    )
    text = gradient.lower(spread, copied).compile().as_text()
    assert "all-gather" not in text and not _by_onednn(text)
    for u, v in zip(gradient(spread, copied), wanted):
        _same(u, v)
    text = per_device.lower(spread, copied).compile().as_text()
    assert "all-gather" not in text and not _by_onednn(text)
    _same(per_device(spread, copied), ops.conv(x, w))


@needs_onednn
def test_a_convolution_can_be_computed_without_jit():
    x, w, _ = cases.draw(OWN[0])
    with jax.disable_jit():
        found = ops.conv(x, w)
    _same(found, reference.forward(OWN[0].spec, x, w))


@needs_onednn
def test_other_dtypes_take_the_ordinary_lowerings():
    x, w, _ = cases.draw(OWN[0], jnp.bfloat16)
    assert "onednn" not in str(jax.make_jaxpr(lambda x, w: ops.conv(x, w))(x, w))


@needs_onednn
def test_engine_is_onednn_and_can_be_switched_off(monkeypatch):
    assert library.engine().startswith("oneDNN ")
    monkeypatch.setenv("JAXSEG_ONEDNN", "off")
    assert library.engine() == "XLA"
    monkeypatch.setenv("JAXSEG_ONEDNN", "always")
    with pytest.raises(ConfigError, match="got JAXSEG_ONEDNN='always'; must be auto or off"):
        library.wanted()


@pytest.mark.parametrize("direction", cases.DIRECTIONS)
def test_onednn_is_taken_where_it_was_measured_to_be_faster(direction):
    measured = [(row.shape, getattr(row, direction)) for row in table.ROWS if getattr(row, direction)]
    for shape, (ordinary, onednn) in measured:
        if primitive.faster(direction, shape.spec, shape.x, shape.weights):
            assert onednn < 0.95 * ordinary, (shape, direction)
        else:
            assert onednn > 0.9 * ordinary, (shape, direction)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """The module as a new process has it, with a cache of its own, and packages that look installed."""
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "libdnnl.so.3").write_bytes(b"")
    wheels = library.Wheels(tmp_path / "libdnnl.so.3", tmp_path, "0")
    monkeypatch.setattr(library, "wheels", lambda: wheels)
    library.load.cache_clear()
    yield wheels
    library.load.cache_clear()


def test_a_mesh_never_asks_for_the_handler_and_computes_the_bits_of_a_run_without_the_packages(monkeypatch, fresh):
    """Examples or rows over eight devices, with the mesh in context and, last, by XLA's partitioner alone."""
    monkeypatch.setattr(library, "_verified", lambda found: pytest.fail("the handler was asked for"))
    x, w, _ = cases.draw(cases.Case("", (8, 16, 7, 16), (3, 3), 16))
    gradient = jax.value_and_grad(lambda x, w: (ops.conv(x, w) ** 2).sum(), (0, 1))
    assert "onednn" in str(jax.make_jaxpr(gradient)(x, w))  # on one device it is an option
    for shape, in_context in (((8, 1), True), ((2, 4), True), ((8, 1), False)):
        mesh = jax.make_mesh(shape, ("data", "space"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
        copied, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
        found = []
        for mode in ("auto", "off"):
            monkeypatch.setenv("JAXSEG_ONEDNN", mode)
            work = lambda x, w: gradient(x, w)  # another function, so that it is traced anew
            step = jax.jit(devices.over(mesh, work) if in_context else work, in_shardings=(spread, copied))
            found.append(jax.tree.leaves(step(x, w)))
        assert all(np.array_equal(u, v) for u, v in zip(*found, strict=True))


def _fake_compile(calls: list):
    def compile(found, folder: Path) -> None:
        calls.append(folder)
        (folder / "conv.so").write_bytes(b"machine code")
        (folder / "digest").write_text(library.files.digest(b"machine code"))

    return compile


def test_without_the_packages_nothing_changes(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    monkeypatch.setattr(library, "wheels", library.wheels.__wrapped__)
    assert not library.wanted() and library.engine() == "XLA"
    x, w, _ = cases.draw(OWN[0])
    assert "onednn" not in str(jax.make_jaxpr(lambda x, w: ops.conv(x, w))(x, w))


@pytest.mark.parametrize("compiler,reason", ((None, "there is no C[+][+] compiler"), ("false", "false ended with 1")))
def test_a_compiler_that_is_missing_or_fails_is_a_warning(monkeypatch, fresh, compiler, reason):
    which = library.shutil.which
    monkeypatch.setattr(library.shutil, "which", lambda name: which(compiler) if compiler else None)
    case = cases.Case("", (1, 5, len(reason), 16), (3, 3), 16)  # shapes that no other test has compiled
    x, w, _ = cases.draw(case)
    with pytest.warns(UserWarning, match=f"cannot be used: .*{reason}.*; convolutions use the ordinary implementation") as caught:
        found = ops.conv(x, w)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert library.engine() == "XLA"
    _same(found, reference.forward(case.spec, x, w))


def test_a_damaged_handler_is_compiled_again(monkeypatch, fresh):
    calls: list = []
    monkeypatch.setattr(library, "_compile", _fake_compile(calls))
    path = library._verified(fresh)
    assert library._verified(fresh) == path and len(calls) == 1
    path.write_bytes(b"machine")
    assert library._verified(fresh).read_bytes() == b"machine code" and len(calls) == 2
    (path.parent / "digest").unlink()
    assert library._verified(fresh).read_bytes() == b"machine code" and len(calls) == 3


def test_processes_that_start_at_once_compile_one_handler(monkeypatch, fresh):
    calls, found, all_here = [], [], threading.Barrier(4)
    monkeypatch.setattr(library, "_compile", _fake_compile(calls))

    def start() -> None:
        all_here.wait()
        found.append(library._verified(fresh))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(found) == 4 and len(set(found)) == 1


def test_the_handlers_source_is_shipped():
    assert library.SOURCE.is_file()
    text = (Path(library.__file__).parents[5] / "pyproject.toml").read_text()
    assert '"jaxseg.ops.conv.cpu.onednn" = ["*.cc"]' in text
