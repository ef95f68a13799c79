"""Available memory: the least of the machine's and the control groups', with pages of files counted as free."""

import pytest

from jaxseg.utils.machine import memory


@pytest.mark.parametrize(
    "version, own, limit, stat, left",
    [
        (2, "0::/job\n", "1000", "anon 300\ninactive_file 200\nactive_file 50\n", 1000 - 700 + 250),
        (2, "0::/job\n", "max", "inactive_file 200\nactive_file 50\n", 5 * 1024),
        (1, "4:memory,cpu:/job\n", "1000", "total_inactive_file 200\ntotal_active_file 50\ninactive_file 1\n", 550),
        (1, "4:memory:/elsewhere/job\n", "1000", "total_inactive_file 0\n", 5 * 1024),  # another mount: the machine's alone
    ],
)
def test_pages_of_files_are_free_and_the_least_limit_counts(tmp_path, monkeypatch, version, own, limit, stat, left):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable: 5 kB\n")
    (tmp_path / "own").write_text(own)
    group = tmp_path / "groups" / ("memory/job" if version == 1 else "job")
    group.mkdir(parents=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    for name, text in zip((*names, "memory.stat"), (limit, "700", stat)):
        (group / name).write_text(text.strip() + "\n")
    for name, path in (("MEMINFO", "meminfo"), ("OWN", "own"), ("GROUPS", "groups")):
        monkeypatch.setattr(memory, name, tmp_path / path)
    assert memory.available() == left
