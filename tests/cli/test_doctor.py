"""The doctor says what there is, and what stands in the way."""

import pytest

from jaxseg.cli import doctor


def test_a_machine_without_an_accelerator_will_do_unless_one_is_required(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path))
    assert doctor.examine() == 0
    out = capsys.readouterr().out
    assert "1 x cpu" in out.replace("8 x cpu", "1 x cpu") and "a convolution" in out and "caches: empty" in out
    assert doctor.examine(require_accelerator=True) == 1
    assert "warning: no accelerator, and one was required" in capsys.readouterr().out


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
    with pytest.raises(doctor.ConfigError, match="delete what it holds yourself"):
        doctor.examine(clear=True)
    assert (tmp_path / "precious" / "file").exists()
