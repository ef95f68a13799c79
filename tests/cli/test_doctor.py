"""The doctor says what there is, and what stands in the way."""

import re

import pytest

from jaxseg.cli import doctor


def test_a_machine_without_an_accelerator_will_do_unless_one_is_required(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path))
    assert doctor.examine() == 0
    out = capsys.readouterr().out
    assert "1 x cpu" in out.replace("8 x cpu", "1 x cpu") and "test convolution" in out and "caches: empty" in out
    assert doctor.examine(require_accelerator=True) == 1
    assert "warning: no accelerator found, but one is required" in capsys.readouterr().out


def test_caches_are_named_with_their_sizes_and_cleared_on_request(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path))
    (tmp_path / "xla").mkdir()
    (tmp_path / "xla" / "program").write_bytes(bytes(3 << 20))
    doctor.examine()
    assert "xla 3 MiB" in capsys.readouterr().out
    doctor.examine(clear=True)
    assert "caches: empty" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_a_link_in_the_place_of_the_cache_is_not_followed(monkeypatch, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    (tmp_path / "cache").symlink_to(tmp_path / "precious")
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    with pytest.raises(doctor.ConfigError, match="delete its caches by hand"):
        doctor.examine(clear=True)
    assert (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize(
    "driver, plugins, words",
    [
        ("NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat", {"jax-cuda12-plugin": "0.10.0"}, []),
        (
            "NVIDIA UNIX Open Kernel Module for x86_64  550.54.14",
            {"jax-cuda13-plugin": "0.10.0"},
            ["needs 580 or newer; jax.cuda12."],
        ),
        ("", {"jax-cuda13-plugin": "0.9.1"}, ["0.9.1 with jaxlib 0.10.0: the versions must be equal"]),
        (" 590.1 ", {"jax-cuda12-plugin": "0.10.0", "jax-cuda13-plugin": "0.10.0"}, ["are both installed"]),
    ],
)
def test_a_driver_and_plugins_that_do_not_go_together_are_named(monkeypatch, tmp_path, driver, plugins, words):
    (tmp_path / "version").write_text(f"NVRM version: {driver}")
    monkeypatch.setattr(doctor, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(doctor, "_version", lambda name: ({"jaxlib": "0.10.0"} | plugins).get(name, ""))
    faults = doctor.driver_faults()
    assert len(faults) == len(words) and all(re.search(word, fault) for word, fault in zip(words, faults))
