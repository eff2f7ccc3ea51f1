"""What the viewer's server answers, and what it refuses."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pytest

from cryosegnet_ext.cli import main
from cryosegnet_ext.cli.readers import PICK_FORMATS
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.picks import read_picks
from cryosegnet_ext.viewer.opening import open_micrographs, open_run
from cryosegnet_ext.viewer.server import PageServer, ViewServer
from cryosegnet_ext.viewer.session import ViewSession
from tests.report.runs import make_run
from tests.stub_picker import write_micrograph
from tests.waiting import LIMIT, start

NAMES = ["a.mrc", "b.mrc", "c.mrc"]
ROOT = Path(__file__).resolve().parents[2]


Server = TypeVar("Server", bound=PageServer)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serve(session: ViewSession) -> AbstractContextManager[ViewServer]:
    return running(ViewServer(session))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_run(tmp_path, NAMES)


@pytest.fixture
def server(out: Path) -> Iterator[ViewServer]:
    with serve(open_run(out)) as server:
        yield server


def ask(
    server: PageServer, path: str, method: str = "GET", body: bytes | None = None, token: bool = True, **headers: str
) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=LIMIT)
    try:
        connection.putrequest(method, f"/{server.token}/{path}" if token else path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None and "Content_Length" not in headers:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def save(server: ViewServer, number: int, picks: object) -> tuple[int, bytes]:
    body = json.dumps({"picks": picks}).encode()
    return ask(server, f"save/{number}", "POST", body, X_CryoSegNet_Token=server.token)[:2]


def view_of(server: ViewServer) -> dict[str, Any]:
    """What the page got besides its data."""
    found = re.search(rb'id="data">(.*?)</script>', ask(server, "")[1], re.S)
    assert found
    view: dict[str, Any] = json.loads(found[1])["view"]
    return view


def test_the_page_and_its_pictures(server: ViewServer) -> None:
    status, page, headers = ask(server, "")
    assert status == 200 and b"Content-Security-Policy" in page and server.token.encode() in page
    assert headers["Cache-Control"] == "no-store" and headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    for path in ("thumbnail/0", "tile/0/0/0/0/0", "tile/2/0/0/0/2"):
        status, picture, _ = ask(server, path)
        image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert status == 200 and image.shape == (64, 96)


def test_tiles_are_the_micrograph_at_each_level(tmp_path: Path) -> None:
    path = write_micrograph(tmp_path / "m.mrc", shape=(1100, 700))
    import mrcfile

    with mrcfile.open(path, "r+") as mrc:
        y, x = np.mgrid[:1100, :700]
        mrc.set_data((y + 2 * x).astype(np.float32))
    session = open_micrographs(expand_inputs([path]), tmp_path / "labels")
    grey = {}
    for level, shape in ((0, (76, 188)), (1, (38, 350)), (2, (275, 175))):
        row, column = {0: (2, 1), 1: (1, 0), 2: (0, 0)}[level]
        image = cv2.imdecode(np.frombuffer(session.tile(0, level, column, row, 0), np.uint8), cv2.IMREAD_GRAYSCALE)
        assert image.shape == shape, level
        # The far corner of each level's last tile is the micrograph's.
        grey[level] = int(image[-4:, -4:].mean())
    assert max(grey.values()) - min(grey.values()) < 6
    for wrong in ((0, 0, 2, 0, 0), (0, 0, 0, 3, 0), (0, 3, 0, 0, 0), (1, 0, 0, 0, 0)):
        with pytest.raises(CryoSegNetError, match="no such"):
            session.tile(*wrong)


def test_without_the_token_there_is_nothing(server: ViewServer) -> None:
    wrong = "x" * len(server.token)
    for path in ("/", "/thumbnail/0", f"/{wrong}/", f"/{server.token[:-1]}/", "//", f"/{server.token.swapcase()}/"):
        status, body, _ = ask(server, path, token=False)
        assert status == 404 and server.token.encode() not in body


def test_another_name_for_this_machine_is_refused(server: ViewServer) -> None:
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1", "127.0.0.1:1", ""):
        assert ask(server, "", Host=host)[0] == 421, host
    assert ask(server, "", Host=f"localhost:{server.server_port}")[0] == 200


TRAVERSALS = [
    "../../etc/passwd", "..%2f..%2fetc/passwd", "thumbnail/../../x", "thumbnail/%2e%2e", "tile/0/0/0/0/0/../../../x",
    "tile/-1/0/0/0/0", "thumbnail/999999", "thumbnail//etc/passwd", "picks/a.star", ".cryosegnet/journal.jsonl",
    "thumbnail/0?x",
]  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_to_a_file(server: ViewServer, path: str) -> None:
    for method, body in (("GET", None), ("POST", b'{"picks": []}')):
        status, answer, _ = ask(server, path, method, body, X_CryoSegNet_Token=server.token)
        assert status in (404, 422)
        assert b"root:" not in answer and b"record" not in answer


def test_a_journal_that_was_tampered_with_does_not_lead_out(out: Path) -> None:
    journal = out / ".cryosegnet" / "journal.jsonl"
    text = journal.read_text().replace('"stem": "a"', '"stem": "../../outside"')
    journal.write_text(re.sub(r', "crc32": "\w+"', "", text))
    session = open_run(out)
    assert [one.stem for one in session.micrographs] == ["b", "c"]
    session.micrographs = [replace(session.micrographs[0], stem="../../outside")]
    with pytest.raises(CryoSegNetError, match="not the name of an output"):
        session.save(0, [])
    assert not (out.parent / "outside.star").exists()


def test_saving_writes_a_new_file_and_never_the_originals(server: ViewServer, out: Path) -> None:
    before = {path: path.read_bytes() for path in (out / "picks").iterdir()}
    status, answer = save(server, 1, [[10.2, 20.7, 41.5, 1], [30, 5, None, 0.7]])
    assert status == 200 and json.loads(answer) == {"path": str(out / "picks_edited" / "b.star"), "picks": 2}
    saved = read_picks(out / "picks_edited" / "b.star")
    assert [saved.x.tolist(), saved.y.tolist(), saved.score.tolist()] == [[10, 30], [21, 5], [1, 0.7]]
    assert {path: path.read_bytes() for path in (out / "picks").iterdir()} == before
    # The next page knows them.
    assert [row[:2] for row in view_of(server)["edited"]["1"]] == [[10, 21], [30, 5]]
    assert ask(server, "discard/1", "POST", b"{}", X_CryoSegNet_Token=server.token)[0] == 200
    assert not (out / "picks_edited" / "b.star").exists()


def test_an_empty_label_is_a_label(server: ViewServer, out: Path) -> None:
    assert save(server, 0, [])[0] == 200
    assert len(read_picks(out / "picks_edited" / "a.star")) == 0


NO_PICKS: list[object] = [
    None, "x", {}, [[1, 2]], [[1, 2, 3, 4, 5]], [["1", 2, 3, 4]], [[True, 2, 3, 1]], [[-1, 2, 3, 1]], [[96, 2, 3, 1]],
    [[1, 64, 3, 1]], [[None, 2, 3, 1]], [[1, 2, 3, None]], [1, 2, 3, 4], [[1e400, 2, 3, 1]], [[10**400, 2, 3, 1]],
    [[1, 2, 10**400, 1]], [[1, 2, 3, 10**400]], [[1, 2, 1e300, 1]], [[1, 2, 3, 1e300]], [[1, 2, -5, 1]],
    [[1, 2, 3, float("nan")]],
]  # fmt: skip


@pytest.mark.parametrize("picks", NO_PICKS)
def test_what_is_no_picks_of_the_micrograph_is_refused(server: ViewServer, out: Path, picks: object) -> None:
    status, answer = save(server, 0, picks)
    assert status == 422 and answer
    assert not (out / "picks_edited").exists()


def test_saving_needs_the_token_twice_a_length_and_sense(server: ViewServer, out: Path) -> None:
    body = b'{"picks": []}'
    assert ask(server, "save/0", "POST", body)[0] == 403
    assert ask(server, "save/0", "POST", body, X_CryoSegNet_Token="x")[0] == 403
    token = {"X_CryoSegNet_Token": server.token}
    assert ask(server, "/save/0", "POST", body, token=False, **token)[0] == 404
    assert ask(server, "save/0", "POST", None, Content_Length=str(1 << 40), **token)[0] == 413
    for length in ("-1", "9" * 5000, "", "1e3", "\xb2"):
        assert ask(server, "save/0", "POST", None, Content_Length=length, **token)[0] == 413, length
    for huge in (b"[" + b"9" * 5000 + b"]", b'{"picks": [[1, 2, 3, ' + b"9" * 5000 + b"]]}"):
        assert ask(server, "save/0", "POST", huge, **token)[0] == 400
    for nonsense in (b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100000):
        assert ask(server, "save/0", "POST", nonsense, **token)[0] == 400
    assert ask(server, "save/3", "POST", body, **token)[0] == 422
    assert ask(server, "save/0", "PUT", body, **token)[0] == 501
    assert not (out / "picks_edited").exists()


HEADER = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
DAMAGED = {
    "text": b"garbage", "empty": b"", "binary": b"\xff\xfe\x00", "no numbers": f"{HEADER}nan 1e400\n".encode(),
    "outside": f"{HEADER}5 6\n1e300 -77\n".encode(), "below": f"{HEADER}5 66\n".encode(),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_one_damaged_file_of_edited_picks_is_told_and_kept(server: ViewServer, out: Path, kind: str) -> None:
    assert save(server, 1, [[10, 20, 30, 1]])[0] == 200
    damaged = out / "picks_edited" / "a.star"
    damaged.write_bytes(DAMAGED[kind])
    view = view_of(server)
    assert list(view["edited"]) == ["1"]
    assert list(view["unreadable"]) == ["0"] and str(damaged) in view["unreadable"]["0"]
    # It was not shown, so that it may be somebody's work.
    status, answer = save(server, 0, [[1, 2, 3, 1]])
    assert status == 422 and str(damaged) in answer.decode()
    assert damaged.read_bytes() == DAMAGED[kind]
    assert ask(server, "discard/0", "POST", b"{}", X_CryoSegNet_Token=server.token)[0] == 200
    assert save(server, 0, [[1, 2, 3, 1]])[0] == 200
    assert view_of(server)["unreadable"] == {}


def test_a_link_that_leads_out_does_not_take_the_page_away(tmp_path: Path) -> None:
    for name in ("day1/m.mrc", "day2/m.mrc"):
        write_micrograph(tmp_path / "mics" / name)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "day1").symlink_to(tmp_path / "mics")
    view = open_micrographs(expand_inputs([tmp_path / "mics"]), tmp_path / "labels").view("t")
    assert list(view["unreadable"]) == [0] and "leads elsewhere" in view["unreadable"][0]


def test_picks_on_the_edge_come_back_from_every_format(out: Path) -> None:
    corners = [[0, 0, 41, 1], [95, 63, 41, 1], [0, 63, 40, 1]]
    for suffix in PICK_FORMATS:
        session = open_run(out, out / suffix, (suffix,))
        session.save(0, corners)
        view = session.view("t")
        assert view["unreadable"] == {}
        assert [row[:2] for row in view["edited"][0]] == [row[:2] for row in corners], suffix
        session.save(0, view["edited"][0])


def test_an_error_of_our_own_is_an_answer_too(server: ViewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise MemoryError("no room")

    monkeypatch.setattr(server.session, "tile", fail)
    status, answer, _ = ask(server, "tile/0/0/0/0/0")
    assert status == 500 and b"the terminal" in answer


def test_a_host_that_cannot_be_a_name_is_a_sentence(out: Path) -> None:
    for host in ("\xe9" * 80, "a\0b", "999.999.999.999"):
        with pytest.raises(CryoSegNetError, match="cannot listen"):
            ViewServer(open_run(out), host)


def test_a_micrograph_that_has_gone_is_a_sentence(server: ViewServer, out: Path) -> None:
    (out.parent / "mics" / "a.mrc").unlink()
    status, answer, _ = ask(server, "tile/0/0/0/0/1")
    assert status == 422 and b"a.mrc does not exist" in answer


def test_the_runs_own_folders_are_no_target(out: Path) -> None:
    for target in (out / "picks", out / "overlays", out / ".cryosegnet" / "x"):
        with pytest.raises(CryoSegNetError, match="never overwritten"):
            open_run(out, target)


def test_labels_of_bare_micrographs_in_several_formats(tmp_path: Path) -> None:
    for name in ("day1/m.mrc", "day2/m.mrc"):
        write_micrograph(tmp_path / "mics" / name)
    (tmp_path / "mics" / "broken.mrc").write_bytes(b"no")
    inputs = expand_inputs([tmp_path / "mics"])
    session = open_micrographs(inputs, tmp_path / "labels", diameter=40, pixel_size=2.0, suffixes=("cbox", "star"))
    assert session.data["totals"] == {"micrographs": 2, "failed": 1, "picks": 0, "seconds": 0.0}
    assert session.data["unit"] == "A" and session.diameter == 40
    session.save(1, [[10, 20, 40, 1]])
    assert sorted(p.relative_to(tmp_path / "labels").as_posix() for p in (tmp_path / "labels").rglob("*.*")) == [
        "day2/m.cbox",
        "day2/m.star",
    ]
    again = open_micrographs(inputs, tmp_path / "labels", diameter=40, pixel_size=2.0, suffixes=("cbox", "star"))
    assert list(again.view("t")["edited"]) == [1]
    assert again.view("t")["edited"][1][0][2] == pytest.approx(40, abs=2)


def test_plain_micrographs_have_the_pixel_sizes_of_their_star(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["a.mrc", "b.mrc", "c.mrc"]
    for name in names:
        write_micrograph(tmp_path / name)
    star = tmp_path / "micrographs.star"
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnMicrographPixelSize #2\n1 1.5\n2 3.0\n\n"
    table = "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\na.mrc 1\nb.mrc 2\nc.mrc 7\n"
    star.write_text(optics + table)
    session = open_micrographs(expand_inputs([star]), tmp_path / "labels", diameter=30)
    assert session.data["micrographs"]["pixel_size"] == [1.5, 3.0] and session.data["unit"] == "A"
    # The row whose group is not there is told, as `pick` does, and not shown with a wrong size.
    assert [Path(name).name for name, _ in session.data["failed"]] == ["c.mrc"]
    assert "optics group" in session.data["failed"][0][1]
    for i in (0, 1):
        session.save(i, [[10, 20, 30, 1]])
    assert [row[2] for row in session.view("t")["edited"][0]] == [30]
    given = open_micrographs(expand_inputs([star]), tmp_path / "labels", pixel_size=2.0)
    assert given.data["micrographs"]["pixel_size"] == [2.0] * 3 and given.data["failed"] == []
    assert not caplog.records
    # Where some have none, their circles are in pixels, and this is said.
    first, second, _ = expand_inputs([star])
    open_micrographs([first, replace(second, pixel_size=None)], tmp_path / "labels")
    assert "of 1 of 2 micrographs is not known" in caplog.text


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view"]) == 1
    assert main(["view", str(tmp_path), "--micrographs", "x"]) == 1
    assert main(["view", "--micrographs", str(tmp_path)]) == 1
    assert main(["view", str(tmp_path), "--port", "70000"]) == 1
    assert main(["view", str(tmp_path)]) == 3
    assert "nothing was picked" in capsys.readouterr().err


def test_a_port_in_use_is_a_sentence(server: ViewServer, out: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CryoSegNetError, match="cannot listen"):
            ViewServer(open_run(out), port=taken.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_its_address_listens_here_only_and_ends_cleanly(out: Path, number: int) -> None:
    command = [sys.executable, "-m", "cryosegnet_ext", "view", str(out), "--no-browser"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    address = re.fullmatch(r"open:  http://127\.0\.0\.1:(\d+)/([\w-]{32})/\n", lines[1])
    assert address, lines
    connection = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=LIMIT)
    connection.request("GET", f"/{address[2]}/")
    assert connection.getresponse().status == 200
    connection.close()
    process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0 and errors == ""


def test_another_host_is_warned_of(out: Path) -> None:
    command = [sys.executable, "-m", "cryosegnet_ext", "view", str(out), "--no-browser", "--host", "0.0.0.0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    address = [process.stdout.readline() for _ in range(3)][1]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert "lets other machines connect" in errors and "0.0.0.0" not in address


def test_crops_are_pictures_and_only_of_places_on_the_micrograph(server: ViewServer) -> None:
    def crops(body: object, number: int = 0) -> tuple[int, bytes]:
        return ask(server, f"crops/{number}", "POST", json.dumps(body).encode(), X_CryoSegNet_Token=server.token)[:2]

    status, picture = crops({"picks": [[10, 20], [50.5, 30]], "width": 30})
    assert status == 200
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_GRAYSCALE).shape == (64, 512)
    good = {"picks": [[10, 20]], "width": 30}
    bad = (
        {"picks": []},
        {"picks": [[1, 2, 3]]},
        {"picks": [["a", 1]]},
        {"picks": [[1e9, 1]]},
        {"picks": 5},
        {"width": 0},
    )
    for wrong in (*bad, {"width": None}, {"width": 1e9}, {"picks": [[1, 1]] * 1001}, {"picks": [[1, None]]}):
        assert crops(good | wrong)[0] == 422, wrong
    assert crops({"picks": []})[0] == 400 and crops(good, 99)[0] == 422
    assert ask(server, "crops/0", "POST", json.dumps(good).encode())[0] == 403
    assert ask(server, "crops/0")[0] == 404
