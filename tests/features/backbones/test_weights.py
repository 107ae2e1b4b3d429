"""A file is the checkpoint it is taken for, or it is not used."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from checkout import ROOT

from avfuse.features.backbones.weights import (
    RANDOM,
    Checkpoint,
    Package,
    Url,
    Weights,
    WeightsChoice,
    fetch,
    file_sha256,
    find_weights,
    weights_folder,
)
from avfuse.features.errors import UsageError

CONTENT = b"so many numbers" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AVFUSE_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server with `net.pth` on it."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "net.pth").write_bytes(CONTENT)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def checkpoint(source: Url | Package | None = None, sha256: str = SHA256[:12]) -> Checkpoint:
    source = source or Url("http://127.0.0.1:9/net.pth")
    return Checkpoint(name="net-imagenet", file="net.pth", licence="MIT", source=source, sha256=sha256)


def test_a_fetched_file_is_whole_and_the_one_named(server: str, folder: Path) -> None:
    path = fetch(checkpoint(Url(f"{server}/net.pth")), progress=False)
    assert path == folder / "net.pth"
    assert path.read_bytes() == CONTENT
    weights = find_weights(checkpoint())
    assert (weights.path, weights.sha256) == (path, SHA256)
    record = path.with_name("net.pth.fetched.json")
    assert sorted(folder.iterdir()) == [path, record]
    assert json.loads(record.read_text())["sha256"] == SHA256


def test_a_fetched_file_without_a_published_hash_is_held_against_what_arrived(server: str, folder: Path) -> None:
    fetch(checkpoint(Url(f"{server}/net.pth"), sha256=""), progress=False)
    (folder / "net.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(UsageError, match="SHA-256"):
        find_weights(checkpoint(sha256=""))


def test_another_file_at_the_address_is_not_kept(server: str, folder: Path) -> None:
    with pytest.raises(UsageError, match="is not the checkpoint"):
        fetch(checkpoint(Url(f"{server}/net.pth"), sha256="0" * 12), progress=False, attempts=1)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/net.pth", "{server}/gone.pth"])
def test_what_cannot_be_fetched_says_how_to_bring_it(server: str, folder: Path, address: str) -> None:
    with pytest.raises(UsageError, match=r"put net\.pth") as caught:
        fetch(checkpoint(Url(address.format(server=server))), progress=False, attempts=1)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_here_says_how_to_bring_it(folder: Path) -> None:
    with pytest.raises(UsageError, match="avfuse weights fetch net-imagenet") as caught:
        find_weights(checkpoint())
    assert str(folder) in str(caught.value)


def test_another_file_is_not_taken_for_the_checkpoint(folder: Path) -> None:
    folder.mkdir()
    (folder / "net.pth").write_bytes(b"not these")
    with pytest.raises(UsageError, match="SHA-256"):
        find_weights(checkpoint())
    with pytest.raises(UsageError, match="SHA-256"):
        fetch(checkpoint(), progress=False)


def test_a_files_hash_follows_its_content(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(CONTENT)
    assert file_sha256(path) == SHA256
    path.write_bytes(b"others")
    assert file_sha256(path) != SHA256


def test_a_package_brings_its_own(tmp_path: Path) -> None:
    path = tmp_path / "in_the_package.pth"
    with pytest.raises(UsageError, match="the package nets"):
        fetch(checkpoint(Package("nets", lambda: path)), progress=False)
    path.write_bytes(CONTENT)
    assert find_weights(checkpoint(Package("nets", lambda: path))).path == path


def test_weights_are_chosen_for_all_or_by_name(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(b"own")
    bringing = tmp_path / "bringing"
    bringing.mkdir()
    (bringing / "net.pth").write_bytes(CONTENT)
    published = [checkpoint()]
    assert WeightsChoice.parse("random").weights_for("net", published) is RANDOM
    assert WeightsChoice.parse(str(own)).weights_for("net", published) == Weights(
        own, hashlib.sha256(b"own").hexdigest()
    )
    assert WeightsChoice.parse(str(bringing)).weights_for("net", published) == Weights(
        bringing / "net.pth", SHA256, published[0]
    )
    choice = WeightsChoice.parse(f"net={own},random")
    assert choice.weights_for("net", published).path == own
    assert choice.weights_for("other", published) is RANDOM
    folder.mkdir()
    (folder / "net.pth").write_bytes(CONTENT)
    assert WeightsChoice.parse("net-imagenet").weights_for("net", published) == WeightsChoice().weights_for(
        "net", published
    )


def test_published_weights_are_fetched_on_the_way(server: str, folder: Path) -> None:
    published = [checkpoint(Url(f"{server}/net.pth"))]
    assert WeightsChoice().weights_for("net", published) == Weights(folder / "net.pth", SHA256, published[0])


def test_a_folder_in_the_hubs_layout_is_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(CONTENT)
    assert WeightsChoice.parse(str(tmp_path)).weights_for("net", [checkpoint()]).sha256 == SHA256


class _FlakyHandler(SimpleHTTPRequestHandler):
    """Busy twice, then as it should be."""

    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        if self.requests <= 2:
            self.send_error(503)
        else:
            super().do_GET()


def test_a_busy_server_is_asked_again(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avfuse.features.backbones.weights.SECONDS_BETWEEN", 0.01)
    (tmp_path / "net.pth").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_FlakyHandler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = Url(f"http://127.0.0.1:{server.server_address[1]}/net.pth")
        assert fetch(checkpoint(address), progress=False).read_bytes() == CONTENT
        server.shutdown()


COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_HELD = {"config.json": b"{}", "model.safetensors": CONTENT, "pytorch_model.bin": b"the same again", "a.png": b""}


class _HubHandler(SimpleHTTPRequestHandler):
    """As much of the hub as a download needs."""

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def log_message(self, *ignored: object) -> None:
        """Nothing is printed."""

    def _answer(self, whole: bool) -> None:
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/api/models/"):
            files = [{"rfilename": name} for name in HUB_HELD]
            content, etag = json.dumps({"id": "us/net", "sha": COMMIT, "siblings": files}).encode(), "-"
        elif name in HUB_HELD and (COMMIT in self.path or "main" in self.path):
            content = HUB_HELD[name]
            etag = hashlib.sha256(content if "damaged" not in self.path else b"other").hexdigest()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if whole:
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _HubHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def fetched_from_hub(hub: str, source: str, folder: Path, sha256: str = "") -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's address is read when its library is imported."""
    program = (
        "from avfuse.features.backbones.weights import *\n"
        "from avfuse.features.errors import UsageError\n"
        f"one = Checkpoint(name='net', file='net.safetensors', licence='MIT', source={source}, sha256='{sha256}')\n"
        "try: fetch(one, progress=False, attempts=1); print(find_weights(one).sha256)\n"
        "except UsageError as error: print(error)"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub, "AVFUSE_WEIGHTS": str(folder), "HF_HUB_DISABLE_XET": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)


def test_a_file_of_the_hub_is_fetched_at_its_commit(hub: str, folder: Path) -> None:
    output = fetched_from_hub(hub, f"Hub('us/net', '{COMMIT}')", folder).stdout
    assert output.strip() == SHA256
    record = json.loads((folder / "net.safetensors.fetched.json").read_text())
    assert (record["revision"], record["sha256"]) == (COMMIT, SHA256)
    assert (folder / "net.safetensors").read_bytes() == CONTENT
    assert len(list(folder.iterdir())) == 2


@pytest.mark.slow
def test_what_the_hub_does_not_hold_or_holds_otherwise_is_refused_in_a_line(hub: str, folder: Path) -> None:
    for source, said in (
        (f"Hub('us/net', '{'f' * 40}')", "cannot fetch"),
        (f"Hub('us/damaged', '{COMMIT}')", "not have the hash that the hub states"),
    ):
        output = fetched_from_hub(hub, source, folder).stdout
        assert said in output
        assert len(output.strip().splitlines()) == 1
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_a_whole_repository_is_fetched_with_one_kind_of_weights(hub: str, folder: Path) -> None:
    output = fetched_from_hub(hub, "HubFolder('us/net')", folder).stdout
    assert sorted(file.name for file in (folder / "net.safetensors").iterdir()) == ["config.json", "model.safetensors"]
    record = json.loads((folder / "net.safetensors.fetched.json").read_text())
    assert record["revision"] == COMMIT
    assert output.strip() == record["sha256"]


@pytest.mark.parametrize("text", ["", "a,b", "net=", "=file", "net=x,"])
def test_a_choice_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="weights"):
        WeightsChoice.parse(text)


def test_a_network_without_published_weights_says_so() -> None:
    with pytest.raises(UsageError, match=r"no weights are published for net: name a file"):
        WeightsChoice().weights_for("net", [])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.pth.*net\.pth"):
        WeightsChoice.parse("nowhere.pth").weights_for("net", [checkpoint()])
    with pytest.raises(UsageError, match=r"has no net\.pth"):
        WeightsChoice.parse(str(tmp_path)).weights_for("net", [checkpoint()])


def test_the_folder_is_the_users_cache_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVFUSE_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert weights_folder() == Path("/somewhere/avfuse/weights")
