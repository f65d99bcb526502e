"""A record is whole or absent, says what it is, and refuses to have been edited."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scaletut.errors import RecordError
from scaletut.records import Record, Value, find_records, new_record, peak_memory, read_record, write_record
from scaletut.records.record import LARGEST, code_version, device_facts, library_digest, library_versions

ROOT = Path(__file__).resolve().parents[2]


def make(**changes) -> Record:
    fields = {
        "experiment": "finetune.fast",
        "profile": "laptop",
        "parameters": {"epochs": 8, "lr": 0.1, "data": "cifar10", "width": [32, 128]},
        "data_digest": "ab" * 32,
        "seeds": [3],
        "values": {"accuracy": Value(91.8, "%", 91.6, 92.0, 5), "parameters": Value(272474)},
        "series": {"loss": [2.3, 1.1, 0.7]},
        "claims": {"fine-tuning helps": True},
        "wall_seconds": 301.5,
        "peak_memory_bytes": 1_250_000_000,
        "flops": 3.2e15,
        "dtype": "bfloat16",
        "device": {"name": "A CPU", "cores": 2, "threads": 2},
        **changes,
    }
    return new_record(fields.pop("experiment"), **fields)


# --- values ---------------------------------------------------------------------------------------------------

finite = st.floats(-LARGEST, LARGEST)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e101, "91.8", None, True, np.array([1.0, 2.0])])
def test_a_value_is_one_finite_number(number):
    with pytest.raises(RecordError, match="value"):
        Value(number)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (91.0, None, "one end"),
        (None, 92.0, "one end"),
        (92.0, 91.0, "does not contain"),
        (0.91, 0.93, "does not contain"),
        (math.nan, 92.0, "low"),
    ],
)
def test_an_interval_holds_its_value(low, high, words):
    with pytest.raises(RecordError, match=words):
        Value(91.5, "%", low, high)


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_n_counts_runs(n):
    with pytest.raises(RecordError, match="count"):
        Value(1.0, n=n)


def test_a_unit_has_no_stray_spaces():
    with pytest.raises(RecordError, match="unit"):
        Value(1.0, " %")


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_the_interval_is_scipys(samples):
    value = Value.of(samples, "%")
    mean, sem = np.mean(samples), stats.sem(samples)
    scale = max(1.0, max(map(abs, samples)))
    assert value.n == len(samples)
    assert value.value == pytest.approx(mean, abs=1e-12 * scale)
    if sem > 1e-9 * scale:
        low, high = stats.t.interval(0.95, len(samples) - 1, loc=mean, scale=sem)
        assert value.low == pytest.approx(low, rel=1e-9, abs=1e-9 * scale)
        assert value.high == pytest.approx(high, rel=1e-9, abs=1e-9 * scale)


def test_equal_samples_have_no_width_and_one_sample_no_interval():
    assert Value.of([0.1, 0.1, 0.1]) == Value(0.1, "", 0.1, 0.1, 3)
    assert Value.of([91.8], "%") == Value(91.8, "%")
    with pytest.raises(RecordError, match="no samples"):
        Value.of([])


# --- what a record can hold -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experiment": "Finetune"}, "experiment name"),
        ({"experiment": "finetune..fast"}, "experiment name"),
        ({"experiment": "../finetune"}, "experiment name"),
        ({"profile": ""}, "profile name"),
        ({"values": {"top 1": Value(1.0)}}, "value name"),
        ({"values": {"run_minutes": Value(1.0)}}, "derives it itself"),
        ({"values": {"accuracy": 91.8}}, "Value"),
        ({"series": {"loss": [1.0, math.nan]}}, "series loss"),
        ({"claims": {"it works": 1}}, "True or False"),
        ({"data_digest": ""}, "data digest"),
        ({"seeds": []}, "seeds"),
        ({"wall_seconds": -1.0}, "negative"),
        ({"wall_seconds": math.inf}, "wall_seconds"),
        ({"peak_memory_bytes": 0}, "not a size"),
        ({"flops": -1.0}, "negative"),
        ({"started": "yesterday"}, "UTC"),
        ({"parameters": {"folder": Path("/tmp")}}, "path"),
        ({"parameters": {"recipe": object()}}, "plain literals"),
        ({"parameters": {"lr": math.nan}}, "lr"),
        ({"parameters": {1: 2}}, "strings"),
    ],
)
def test_what_a_record_cannot_hold_is_refused_by_name(changes, words):
    with pytest.raises(RecordError, match=words):
        make(**changes)


def test_numpy_scalars_and_tuples_become_plain():
    record = make(
        parameters={"epochs": np.int64(8), "lr": np.float32(0.5), "width": (1, np.int8(2)), "flip": np.bool_(True)},
        seeds=np.arange(2),
        claims={"holds": np.bool_(False)},
    )
    assert record.parameters == {"epochs": 8, "lr": 0.5, "width": [1, 2], "flip": True}
    assert record.parameters["flip"] is True
    assert record.seeds == (0, 1)
    assert record.claims["holds"] is False


def test_facts_are_gathered():
    record = make(device=None, threads=1)
    assert record.device["cores"] >= 1
    assert record.device["threads"] == 1
    assert record.device["dtype"] == "bfloat16"
    assert record.device["name"]
    assert {"python", "numpy", "scaletut"} <= record.versions.keys()
    assert re.fullmatch("[0-9a-f]{64}", record.code["library"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record.started)
    assert re.fullmatch(r"finetune\.fast-[0-9a-f]{12}", record.id)
    assert record.command == (
        "scaletut run finetune --profile laptop -p epochs=8 -p lr=0.1 -p data=cifar10 -p 'width=[32, 128]'"
    )


def test_the_library_digest_follows_its_source(tmp_path, monkeypatch):
    """A copy of the package has the same digest until one byte of one file changes; the code loaded stays."""
    import shutil

    from scaletut.records import record as module

    copy = tmp_path / "scaletut"
    shutil.copytree(ROOT / "scaletut", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "__file__", str(copy / "records/record.py"))
    before = library_digest()
    assert library_digest() == before
    (copy / "errors.py").write_text((copy / "errors.py").read_text() + "#")
    assert library_digest() != before
    assert code_version()["library"] == module._LIBRARY_AS_LOADED


def test_facts_do_not_name_the_machine():
    import getpass
    import platform

    told = json.dumps(device_facts()).lower()
    for secret in (platform.node(), str(Path.home())):
        assert len(secret) < 3 or secret.lower() not in told
    assert set(device_facts()) <= {"name", "cores", "threads", "memory_gb", "dtype", "accelerator"}
    assert getpass.getuser() not in json.dumps(code_version())


def test_nothing_heavy_is_imported():
    code = "import scaletut.records, sys; print([m for m in ('torch', 'pandas', 'scipy.stats') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
    assert "torch" in library_versions() or library_versions()["python"]


def test_peak_memory_is_in_bytes():
    peak = peak_memory()
    if peak is None:
        pytest.skip("this system does not tell the peak memory of a process")
    block = np.ones(50_000_000 // 8)  # 50 MB
    assert 10e6 < peak <= peak_memory() < 100e9
    status = Path("/proc/self/status")
    if status.exists():
        kib = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
        assert peak_memory() == pytest.approx(kib * 1024, rel=0.05)
    assert block.sum() > 0


# --- file and back ----------------------------------------------------------------------------------------------

name = st.from_regex(r"[a-z][a-z0-9_]{0,8}(\.[a-z0-9_]{1,5})?", fullmatch=True).filter(
    lambda text: text not in ("run_minutes", "run_peak_memory")
)
literal = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | finite | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
value = st.builds(
    lambda three, unit, n: Value(sorted(three)[1], unit, min(three), max(three), n),
    st.tuples(finite, finite, finite),
    st.sampled_from(["", "%", "images/s", "µs"]),
    st.integers(1, 1000),
)


@settings(max_examples=60, deadline=None)
@given(
    experiment=name,
    parameters=st.dictionaries(st.text(min_size=1, max_size=8), literal, max_size=4),
    values=st.dictionaries(name, value, max_size=4),
    series=st.dictionaries(name, st.lists(finite, max_size=4), max_size=2),
    claims=st.dictionaries(st.text(min_size=1, max_size=20), st.booleans(), max_size=3),
    seeds=st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
    note=st.text(max_size=30),
)
def test_round_trip(tmp_path_factory, experiment, parameters, values, series, claims, seeds, note):
    record = make(
        experiment=experiment,
        parameters=parameters,
        values=values,
        series=series,
        claims=claims,
        seeds=seeds,
        note=note,
        command="scaletut run",
    )
    path = write_record(record, tmp_path_factory.mktemp("records"))
    assert read_record(path) == record
    assert read_record(path).id == record.id
    assert path.name.startswith(f"{experiment}-laptop-")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_record(make(), tmp_path_factory.mktemp("written"))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_altered_byte_is_refused(written, tmp_path_factory, data):
    content = written.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != content[place]))
    altered = tmp_path_factory.getbasetemp() / "altered.json"
    altered.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
    with pytest.raises(RecordError, match=r"altered\.json"):
        read_record(altered)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_lost_or_doubled_byte_is_refused(written, tmp_path_factory, data):
    content = written.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    changed = data.draw(
        st.sampled_from(
            [content[:place], content[:place] + content[place + 1 :], content[: place + 1] + content[place:]]
        )
    )
    altered = tmp_path_factory.getbasetemp() / "altered.json"
    altered.write_bytes(changed)
    with pytest.raises(RecordError, match=r"altered\.json"):
        read_record(altered)


def test_the_error_names_the_field(written, tmp_path):
    for old, new, field in [
        ("91.8", "92.8", "values"),
        ('"epochs": 8', '"epochs": 9', "parameters"),
        ("301.5", "201.5", "wall_seconds"),
        ('"fine-tuning helps": true', '"fine-tuning helps": false', "claims"),
        ("abababab", "babababa", "data_digest"),
    ]:
        text = written.read_text()
        assert old in text
        path = tmp_path / "changed.json"
        path.write_text(text.replace(old, new))
        with pytest.raises(RecordError, match=rf"changed\.json was altered \({field} differs\)"):
            read_record(path)


def test_a_forged_digest_does_not_help(written, tmp_path):
    """Changing a value together with its short digest still leaves the whole one, and the id."""
    from scaletut.files import digest_json

    stored = json.loads(written.read_text())
    stored["values"]["accuracy"]["value"] = 91.9
    stored["digests"]["values"] = digest_json(stored["values"])[:12]
    path = tmp_path / "forged.json"
    path.write_text(json.dumps(stored, sort_keys=True, indent=1, ensure_ascii=False) + "\n")
    with pytest.raises(RecordError, match="digest differs"):
        read_record(path)
    content = {key: value for key, value in stored.items() if key not in ("id", "digest", "digests")}
    stored["digest"] = digest_json(content)
    path.write_text(json.dumps(stored, sort_keys=True, indent=1, ensure_ascii=False) + "\n")
    with pytest.raises(RecordError, match="id differs"):
        read_record(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', "null", "\x00", '{"a": NaN}'])
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"other\.json"):
        read_record(path)


def test_a_record_of_another_format_is_refused(written, tmp_path):
    path = tmp_path / "newer.json"
    path.write_text(written.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(RecordError, match="format 2"):
        read_record(path)
    with pytest.raises(RecordError, match="does not exist"):
        read_record(tmp_path / "absent.json")


def test_line_ends_of_a_windows_checkout_are_no_alteration(written, tmp_path):
    path = tmp_path / "crlf.json"
    path.write_bytes(written.read_bytes().replace(b"\n", b"\r\n"))
    assert read_record(path) == read_record(written)


def test_a_record_is_never_written_over(tmp_path):
    first = make()
    path = write_record(first, tmp_path, name="finetune.json")
    assert write_record(first, tmp_path, name="finetune.json") == path
    with pytest.raises(RecordError, match="never edited"):
        write_record(make(wall_seconds=302.0), tmp_path, name="finetune.json")
    assert read_record(path) == first


def test_a_run_made_again_replaces_only_itself(tmp_path):
    write_record(make(), tmp_path)
    others = [make(seeds=[4]), make(profile="gpu"), make(experiment="finetune.slow")]
    for other in others:
        write_record(other, tmp_path)
    again = make(wall_seconds=299.0)
    write_record(again, tmp_path, replace=True)
    assert sorted(record.id for record in find_records(tmp_path)) == sorted(r.id for r in [again, *others])


def test_kill_9_leaves_no_half_record(tmp_path):
    """A process that writes records in a loop is killed at random moments; what is there is whole."""
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from scaletut.records import Value, new_record, write_record
        series = {{"loss": [i / 7 for i in range(2000)]}}
        print("ready", flush=True)
        for i in range(10**9):
            record = new_record("loop", profile="quick", parameters={{"i": i}}, data_digest="ab", seeds=[i],
                values={{"accuracy": Value(50.0, "%")}}, wall_seconds=1.0, series=series, device={{"name": "x"}})
            write_record(record, {str(tmp_path)!r})
            write_record(record, {str(tmp_path)!r}, name="last.json", replace=False) if i == 0 else None
    """)
    rng = np.random.default_rng(0)
    written = 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        before, deadline = written, time.monotonic() + 10
        while len(list(tmp_path.glob("*.json"))) <= before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        records = find_records(tmp_path)  # reads, and so verifies, every one
        written = len(records)
        for path in tmp_path.glob("last.json"):
            path.unlink()
    assert written >= 4
