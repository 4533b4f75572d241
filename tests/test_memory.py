from __future__ import annotations

import torch

from wordmask import memory


def test_free_memory_reads_the_limits(tmp_path):
    assert 2**20 < memory.free_memory(torch.device("cpu")) < 2**50
    assert 2**20 < memory.free_memory("cpu") < 2**50
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory._free_of_group(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._free_of_group(tmp_path) is None
