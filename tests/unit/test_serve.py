"""A service answers what it should, refuses what it must with a reason, and loses nothing when a worker is killed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from serve_cases import CLASSES, COLOURS, SIDE, colour_program, picture

from scaletut.cli import main
from scaletut.compress.program import Program
from scaletut.serve import ServeError, Service, Settings, running
from scaletut.serve.metrics import Metrics
from scaletut.serve.pool import Pool, WorkerEnded
from scaletut.serve.settings import Refused

PNG = {"content-type": "image/png"}
FEW = {"queue": 8, "max_images": 4, "max_bytes": "1MB", "slow": "1s"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_program(tmp_path_factory.mktemp("served") / "colours.onnx").path


@pytest.fixture(scope="module")
def service(model: Path) -> Iterator[Service]:
    with running(model, **FEW) as found:
        yield found


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=30) as made:
        yield made


def fine(client: httpx.Client) -> bool:
    answer = client.post("/predict", content=picture("blue"), headers=PNG)
    return answer.status_code == 200 and answer.json()["predictions"][0]["class"] == "blue"


# --- what is answered ----------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_picture_in_each_format_is_known_by_its_content(client: httpx.Client, form: str) -> None:
    answer = client.post("/predict", content=picture("green", (40, 30), form), headers={"content-type": "image/x"})
    found = answer.json()
    assert answer.status_code == 200
    assert found["predictions"][0]["class"] == "green"
    assert sum(found["predictions"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert 0 < found["milliseconds"]["computing"] < found["milliseconds"]["total"]


def test_the_logits_are_those_of_the_program(client: httpx.Client, model: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    logits = Program.load(model).logits(pixels).astype(float)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = client.post("/predict", json={"images": pixels.tolist()}).json()["predictions"]
    shares = [[one["probabilities"][name] for name in CLASSES] for one in found]
    np.testing.assert_allclose(shares, expected, atol=2e-6)


def test_several_pictures_in_one_form_come_back_in_order(client: httpx.Client) -> None:
    order = ["blue", "red", "green", "blue"]
    files = [("file", (name, picture(name, (99, 50), "JPEG"), "image/jpeg")) for name in order]
    assert [one["class"] for one in client.post("/predict", files=files).json()["predictions"]] == order


def test_many_at_once_share_batches_and_none_gets_anothers_answer(service: Service, client: httpx.Client) -> None:
    def ask(name: str) -> bool:
        return client.post("/predict", content=picture(name), headers=PNG).json()["predictions"][0]["class"] == name

    before = service.metrics()
    with paused(service.worker_pids()), ThreadPoolExecutor(7) as threads:
        asked = threads.map(ask, [list(COLOURS)[number % 3] for number in range(7)])
        until(lambda: service.metrics()["scaletut_requests_inside"] == 7)
        for pid in service.worker_pids():
            os.kill(pid, signal.SIGCONT)
        assert all(asked)
    after = service.metrics()
    images, batches = (after[key] - before[key] for key in ("scaletut_batch_images_sum", "scaletut_batch_images_count"))
    assert images == 7
    assert batches < 7


def test_health_metrics_and_description(service: Service, client: httpx.Client) -> None:
    assert fine(client)
    state = client.get("/health").json()
    assert state["ready"]
    assert state["model"]["classes"] == list(CLASSES)
    assert client.get("/health/live").json() == {"live": True}
    assert "requestBody" in client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    counts = service.metrics()
    assert counts['scaletut_requests_total{status="200"}'] >= 1
    assert counts['scaletut_request_seconds_bucket{le="+Inf"}'] == counts["scaletut_request_seconds_count"]
    falls = [n for name, n in counts.items() if name.startswith("scaletut_request_seconds_bucket")]
    assert falls == sorted(falls)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what a process has loaded")
def test_neither_server_nor_workers_load_torch(service: Service) -> None:
    for pid in (service.pid, *service.worker_pids()):
        loaded = Path(f"/proc/{pid}/maps").read_text()
        assert "numpy" in loaded
        assert "torch" not in loaded


# --- what is refused -----------------------------------------------------------------


def bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (6000, 5000)).save(file, "PNG", optimize=True)
    return file.getvalue()


def torn() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    whole = file.getvalue()
    return whole[:100] + bytes(100) + whole[200:]


def animation() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), name) for name in CLASSES]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def floats() -> bytes:
    return json.dumps({"images": [[[[0.5, 0.5, 0.5]]]]}).encode()


NUMBERS = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
FIELD = b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'
HOSTILE = {
    "nothing": (b"", PNG, 400, "empty"),
    "no picture": (b"MZ" + bytes(500), PNG, 415, "no picture"),
    "a type that is not read": (b"hello", {"content-type": "text/plain"}, 415, "text/plain"),
    "no type": (picture(), {"content-type": ""}, 415, "nothing"),
    "cut short": (picture("red", (400, 400), "JPEG")[:900], PNG, 400, "cut short"),
    "damaged": (torn(), PNG, 400, "damaged"),
    "a bomb": (bomb(), PNG, 413, "25,000,000"),
    "an animation": (animation(), {"content-type": "image/gif"}, 422, "animation of 3 frames"),
    "a format with old parsers": (picture(form="TIFF"), {"content-type": "image/tiff"}, 415, "no picture"),
    "broken JSON": (b'{"images": [', NUMBERS, 400, "JSON"),
    "deep JSON": (b"[" * 100_000, NUMBERS, 400, "JSON"),
    "JSON without images": (b'{"picture": 1}', NUMBERS, 422, "images"),
    "floats": (floats(), NUMBERS, 422, "whole numbers"),
    "ragged rows": (b'{"images": [[[[1,2,3]],[[1,2,3],[1,2,3]]]]}', NUMBERS, 422, "rows"),
    "numbers out of range": (b'{"images": [[[[256,0,0]]]]}', NUMBERS, 422, "0 to 255"),
    "enormous numbers": (b'{"images": [[[[1' + b"0" * 4000 + b",0,0]]]]}", NUMBERS, 422, "whole numbers"),
    "a form that is none": (b"hello", FORM, 400, "form"),
    "a form without a file": (FIELD, FORM, 422, "no file"),
    "too many pictures": (b'{"images": [' + b",".join([b"[[[1,2,3]]]"] * 5) + b"]}", NUMBERS, 413, "more than 4"),
    "too many bytes": (bytes(1_000_001), PNG, 413, "1,000,000"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_get_a_reason_and_cost_nothing_else(client: httpx.Client, name: str) -> None:
    body, headers, status, reason = HOSTILE[name]
    answer = client.post("/predict", content=body, headers=headers)
    said = answer.json()["error"]
    assert answer.status_code == status
    assert reason in said
    assert "\n" not in said
    assert fine(client)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/predict", 405), ("POST", "/nowhere", 404)])
def test_addresses_that_there_are_not(client: httpx.Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path, content=b"x" * 300_000 if method == "POST" else None)
    assert answer.status_code == status
    assert answer.json()["error"]


def talk(service: Service, *parts: bytes, pause: float = 0.0) -> bytes:
    """What the service says to bytes that come in parts, until it closes; the rest is not sent then."""
    parsed = urlsplit(service.url)
    with socket.create_connection((parsed.hostname, parsed.port), timeout=20) as plug:
        with contextlib.suppress(OSError):
            for part in parts:
                plug.sendall(part)
                time.sleep(pause)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while block := plug.recv(65536):
                said += block
        return said


HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\n"


def test_too_large_is_told_from_the_header_before_the_body_is_sent(service: Service) -> None:
    said = talk(service, HEAD + b"content-length: 99999999999\r\nexpect: 100-continue\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in said


def test_an_endless_body_is_ended_while_it_comes_and_the_answer_can_be_read(service: Service) -> None:
    block = b"10000\r\n" + bytes(65536) + b"\r\n"
    said = talk(service, HEAD + b"transfer-encoding: chunked\r\n\r\n", *[block] * 40)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in said


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param((b"POST /pre", *[b"d"] * 30), id="header"),
        pytest.param((HEAD + b"content-length: 5000\r\n\r\n", *[b"x"] * 30), id="body"),
    ],
)
def test_slow_clients_are_told_so_and_nobody_waits_for_them(
    service: Service, client: httpx.Client, parts: tuple[bytes, ...]
) -> None:
    with ThreadPoolExecutor(20) as threads:
        said = [threads.submit(talk, service, *parts, pause=0.1) for _ in range(20)]
        assert fine(client)
        assert not any(one.done() for one in said)  # served while they were still sending
        assert all(one.result().startswith(b"HTTP/1.1 408 ") for one in said)


def test_an_endless_header_and_no_http_at_all(service: Service, client: httpx.Client) -> None:
    said = talk(service, b"GET / HTTP/1.1\r\n", *[b"a: " + b"x" * 5000 + b"\r\n"] * 20)
    assert said.startswith(b"HTTP/1.1 431 ")
    assert talk(service, b"\x16\x03\x01 hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert fine(client)


def test_of_too_many_large_bodies_the_slowest_is_ended(service: Service, client: httpx.Client) -> None:
    with ThreadPoolExecutor(20) as threads:
        part = HEAD + b"content-length: 960000\r\n\r\n" + bytes(950_000)  # all of them: more than sixteen may hold
        said = [threads.submit(talk, service, part) for _ in range(20)]
        assert fine(client)
        reasons = [one.result() for one in said]
    assert all(reason.startswith(b"HTTP/1.1 408 ") for reason in reasons)
    assert any(b"slowest of too many" in reason for reason in reasons)


def test_a_client_that_hangs_up_is_counted_and_forgotten(service: Service, client: httpx.Client) -> None:
    parsed = urlsplit(service.url)
    with socket.create_connection((parsed.hostname, parsed.port)) as plug:
        plug.sendall(HEAD + b"content-length: 5000\r\n\r\nhello")
    until(lambda: service.metrics().get('scaletut_requests_total{status="499"}', 0) >= 1)
    assert service.metrics()["scaletut_requests_inside"] == 0


def test_beyond_its_connections_the_slowest_is_closed(model: Path) -> None:
    with (
        running(model, connections=8) as one,
        httpx.Client(base_url=one.url) as honest,
        contextlib.ExitStack() as open_,
    ):
        parsed = urlsplit(one.url)
        for _ in range(30):
            plug = open_.enter_context(socket.create_connection((parsed.hostname, parsed.port), timeout=10))
            plug.sendall(b"GET /hea")
        assert fine(honest)
        assert honest.get("/health").json()["ready"]


# --- back-pressure, killed workers, the end --------------------------------------------


@contextlib.contextmanager
def paused(pids: list[int]) -> Iterator[None]:
    """Workers that do not get on, so that what waits behind them can be counted."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def until(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def ask(service: Service, name: str = "red") -> httpx.Response:
    return httpx.post(f"{service.url}/predict", content=picture(name), headers=PNG, timeout=30)


def test_a_full_queue_says_when_to_come_again_and_keeps_what_it_accepted(service: Service) -> None:
    with paused(service.worker_pids()), ThreadPoolExecutor(40) as threads:
        first = threads.submit(ask, service)
        until(
            lambda: (
                service.metrics()["scaletut_requests_inside"] == 1 and not service.metrics()["scaletut_waiting_images"]
            )
        )
        waiting = [threads.submit(ask, service) for _ in range(8)]
        until(lambda: service.metrics()["scaletut_waiting_images"] == 8)
        refused = [threads.submit(ask, service).result() for _ in range(5)]
        assert {one.status_code for one in refused} == {503}
        assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
        for pid in service.worker_pids():
            os.kill(pid, signal.SIGCONT)
        assert {one.result().status_code for one in (first, *waiting)} == {200}


def test_a_killed_worker_loses_no_accepted_request(service: Service) -> None:
    before = service.metrics()
    victims = service.worker_pids()
    with paused(victims), ThreadPoolExecutor(8) as threads:
        names = [list(COLOURS)[number % 3] for number in range(8)]
        answers = [threads.submit(ask, service, name) for name in names]
        until(lambda: service.metrics()["scaletut_requests_inside"] == 8)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        found = [one.result() for one in answers]
    assert [one.status_code for one in found] == [200] * 8
    assert [one.json()["predictions"][0]["class"] for one in found] == names
    after = service.metrics()
    assert after["scaletut_worker_restarts_total"] == before["scaletut_worker_restarts_total"] + len(victims)
    assert after["scaletut_retried_images_total"] > before["scaletut_retried_images_total"]
    assert not set(service.worker_pids()) & set(victims)


class Doomed:
    """A worker that dies on each batch with a black image in it."""

    def __init__(self) -> None:
        self.process, self.batches = SimpleNamespace(pid=0, wait=asyncio.Event().wait), 0

    @classmethod
    async def start(cls, path: Path) -> Doomed:
        return cls()

    async def logits(self, images: np.ndarray, within: float) -> tuple[np.ndarray, float]:
        if not images.any(axis=(1, 2, 3)).all():
            raise WorkerEnded
        return images.mean((1, 2), dtype=np.float32), 0.001

    async def stop(self) -> None:
        pass


def test_an_image_on_which_every_worker_dies_is_given_up(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaletut.serve.pool.Worker", Doomed)

    async def asked() -> None:
        pool = Pool(Program.load(model), Settings(tries=3), Metrics())
        await pool.start()
        poison, fine = np.zeros((1, SIDE, SIDE, 3), np.uint8), np.ones((1, SIDE, SIDE, 3), np.uint8)
        with pytest.raises(Refused, match="3 inference processes ended") as refused:
            await pool.answers(poison)
        assert refused.value.status == 500
        assert [one.batch for one in await pool.answers(fine)] == [1]
        assert (pool.metrics.restarts, pool.metrics.retried) == (3, 2)
        await pool.close()

    asyncio.run(asyncio.wait_for(asked(), 20))


def test_told_to_end_it_answers_what_it_accepted_and_leaves_no_process(model: Path) -> None:
    with running(model, workers=2) as one:
        workers = one.worker_pids()
        assert len(workers) == 2
        with paused(workers), ThreadPoolExecutor(4) as threads:
            answers = [threads.submit(ask, one) for _ in range(4)]
            until(lambda: one.metrics()["scaletut_requests_inside"] == 4)
            os.kill(one.pid, signal.SIGTERM)
            time.sleep(0.3)
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
            assert [answer.result().status_code for answer in answers] == [200] * 4
    assert not [pid for pid in workers if Path(f"/proc/{pid}/cmdline").exists()]


def test_what_cannot_be_served_is_told_in_one_line(
    model: Path, tmp_path: Path, service: Service, capsys: pytest.CaptureFixture
) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"hello")
    taken = str(urlsplit(service.url).port)
    for words in (
        (str(other),),
        (str(tmp_path / "absent.onnx"),),
        (str(model), "--port", taken),
        (str(model), "--port", "70000"),
        (str(model), "--max-bytes", "many"),
        (str(model), "--max-wait", "2"),
    ):
        assert main(["serve", *words]) == 2, words
        said = capsys.readouterr().err
        assert said.startswith("scaletut: error: ")
        assert said.count("\n") == 1
    with pytest.raises(ServeError, match="cannot be listened on"), running(model, port=taken):
        pass


def test_ctrl_c_ends_it_with_a_line(model: Path) -> None:
    words = [sys.executable, "-m", "scaletut", "serve", str(model), "--port=0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert "http://127.0.0.1:" in process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        assert "every accepted request was answered" in process.stdout.read()
    assert process.returncode == 0
