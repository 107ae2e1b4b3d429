"""A file is the checkpoint it is taken for, or it is not used."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from features.backbones.weights import (
    RANDOM,
    Address,
    Checkpoint,
    Package,
    Weights,
    WeightsChoice,
    fetch,
    file_sha256,
    find,
    weights_folder,
)
from features.errors import UsageError

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


def checkpoint(source: Address | Package | None = None, sha256: str = SHA256[:12]) -> Checkpoint:
    source = source or Address("http://127.0.0.1:9/net.pth")
    return Checkpoint(name="net-imagenet", file="net.pth", licence="MIT", source=source, sha256=sha256)


def test_a_fetched_file_is_whole_and_the_one_named(server: str, folder: Path) -> None:
    path = fetch(checkpoint(Address(f"{server}/net.pth")), progress=False)
    assert path == folder / "net.pth"
    assert path.read_bytes() == CONTENT
    assert find(checkpoint()) == Weights(path, SHA256)
    assert list(folder.iterdir()) == [path]


def test_another_file_at_the_address_is_not_kept(server: str, folder: Path) -> None:
    with pytest.raises(UsageError, match="cannot fetch"):
        fetch(checkpoint(Address(f"{server}/net.pth"), sha256="0" * 12), progress=False, attempts=1)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/net.pth", "{server}/gone.pth"])
def test_what_cannot_be_fetched_says_how_to_bring_it(server: str, folder: Path, address: str) -> None:
    with pytest.raises(UsageError, match=r"bring net\.pth") as caught:
        fetch(checkpoint(Address(address.format(server=server))), progress=False, attempts=1)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_here_says_how_to_bring_it(folder: Path) -> None:
    with pytest.raises(UsageError, match="avfuse weights fetch net-imagenet") as caught:
        find(checkpoint())
    assert str(folder) in str(caught.value)


def test_another_file_is_not_taken_for_the_checkpoint(folder: Path) -> None:
    folder.mkdir()
    (folder / "net.pth").write_bytes(b"not these")
    with pytest.raises(UsageError, match="SHA-256"):
        find(checkpoint())
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
    assert find(checkpoint(Package("nets", lambda: path))).path == path


def test_weights_are_chosen_for_all_or_by_name(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(b"own")
    bringing = tmp_path / "bringing"
    bringing.mkdir()
    (bringing / "net.pth").write_bytes(CONTENT)
    published = [checkpoint()]
    assert WeightsChoice.parse("random").of("net", published) is RANDOM
    assert WeightsChoice.parse(str(own)).of("net", published) == Weights(own, hashlib.sha256(b"own").hexdigest())
    assert WeightsChoice.parse(str(bringing)).of("net", published) == Weights(bringing / "net.pth", SHA256)
    choice = WeightsChoice.parse(f"net={own},random")
    assert choice.of("net", published).path == own
    assert choice.of("other", published) is RANDOM
    folder.mkdir()
    (folder / "net.pth").write_bytes(CONTENT)
    assert WeightsChoice.parse("net-imagenet").of("net", published) == WeightsChoice().of("net", published)


@pytest.mark.parametrize("text", ["", "a,b", "net=", "=file", "net=x,"])
def test_a_choice_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="weights"):
        WeightsChoice.parse(text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.pth.*net\.pth"):
        WeightsChoice.parse("nowhere.pth").of("net", [checkpoint()])
    with pytest.raises(UsageError, match=r"has no net\.pth"):
        WeightsChoice.parse(str(tmp_path)).of("net", [checkpoint()])


def test_the_folder_is_the_users_cache_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVFUSE_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert weights_folder() == Path("/somewhere/avfuse/weights")
