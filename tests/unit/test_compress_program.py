"""Programs: what is loaded is what was written, and everything else is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compress_cases import data, exported, images, quantised

from scaletut.compress import Program
from scaletut.compress.program import read_graph, write_program
from scaletut.errors import DataError, ParameterError


def test_a_program_comes_back_as_it_was_written() -> None:
    program = exported()
    again = Program.load(str(program.path))
    assert again.manifest == program.manifest
    assert again.class_names == data().train.class_names
    assert (again.side, again.bytes) == (32, program.path.stat().st_size)
    assert np.array_equal(again.logits(data().test.images[:9]), program.logits(data().test.images[:9]))


def test_any_batch_size_and_any_number_of_images() -> None:
    program, some = exported(), data().test.images[:7]
    whole = program.logits(some, batch_size=7)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(program.logits(some, batch_size=3), whole, atol=1e-5)
    np.testing.assert_allclose(program.logits(some, threads=2), whole, atol=1e-5)
    assert program.logits(some[:0]).shape == (0, 10)


@pytest.mark.parametrize("level", ["off", "basic", "extended"])
def test_every_optimisation_level_computes_the_same(level: str) -> None:
    some = data().test.images[:20]
    np.testing.assert_allclose(exported().predictor(level=level)(some), exported().logits(some), atol=1e-4)


def test_the_file_is_plain_onnx_without_paths_of_the_machine() -> None:
    import onnx

    content = exported().path.read_bytes()
    onnx.checker.check_model(onnx.ModelProto.FromString(content))
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"site-packages" not in content


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_one_changed_byte_anywhere_is_refused(share: float, tmp_path: Path) -> None:
    content = bytearray(exported().path.read_bytes())
    content[int(share * len(content))] ^= 1
    (tmp_path / "altered.onnx").write_bytes(content)
    with pytest.raises(DataError, match=r"altered\.onnx"):
        Program.load(tmp_path / "altered.onnx")


def test_what_is_not_a_program_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = exported().path.read_bytes()
    wrong = {
        "empty": b"",
        "short": whole[:-7],
        "noise": images(1).tobytes(),
        "foreign": read_graph(exported()),
        "tail": whole + b"\x72\x00",
        "endless": b"\xff" * 4000,
    }
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name) as error:
            Program.load(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="absent"):
        Program.load(tmp_path / "absent")


def test_a_file_that_changes_after_loading_is_not_run(tmp_path: Path) -> None:
    program = write_program(tmp_path / "a.onnx", read_graph(exported()), exported().manifest)
    content = bytearray(program.path.read_bytes())
    content[len(content) // 2] ^= 1
    program.path.write_bytes(content)
    with pytest.raises(DataError, match="altered"):
        program.session()


def test_a_graph_that_onnx_runtime_cannot_read_is_refused(tmp_path: Path) -> None:
    program = write_program(tmp_path / "a.onnx", b"\x08\x07", exported().manifest)
    with pytest.raises(DataError, match="ONNX Runtime cannot load"):
        Program.load(program.path).predictor()


def test_wrong_images_threads_and_levels_are_refused() -> None:
    predictor = exported().predictor()
    for wrong in (images(2, side=16), images(2).astype(np.float32), images(2)[0]):
        with pytest.raises(DataError, match="uint8"):
            predictor(wrong)
    with pytest.raises(ParameterError, match="batch_size"):
        predictor(images(2), batch_size=0)
    with pytest.raises(ParameterError, match="threads"):
        exported().predictor(threads=0)
    with pytest.raises(ParameterError, match="level"):
        exported().predictor(level="most")
    with pytest.raises(ParameterError, match="JSON"):
        write_program(exported().path, b"", {"mean": float("nan")})


def test_a_server_loads_and_runs_a_program_without_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from scaletut.compress import Program\n"
        "logits = Program.load(sys.argv[1]).logits(np.zeros((2, 32, 32, 3), np.uint8))\n"
        "assert logits.shape == (2, 10) and 'torch' not in sys.modules and 'onnx' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(quantised().path)], check=True)
