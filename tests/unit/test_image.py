"""Which kernel image is booted, and what is said where none can be."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import pytest

from testbed.errors import MachineLacks, UserError
from testbed.kernel.image import NEEDED_MODULES, find_image, open_image, read_release
from testbed.kernel.modules import ModuleIndex, read_module
from testbed.kernel.vmlinux import extract

RELEASE = "6.1.0-56-amd64"
PAYLOAD_AT = 0x400  # behind one sector of set-up code


def bzimage(release: str, payload: bytes = b"") -> bytes:
    header = bytearray(PAYLOAD_AT)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x20E, 0x100)
    struct.pack_into("<II", header, 0x248, 0, len(payload))
    text = f"{release} (somebody@example) #1 SMP\0".encode()
    header[0x300 : 0x300 + len(text)] = text
    return bytes(header) + payload


def elf(note_name: bytes, note_type: int) -> bytes:
    note = struct.pack("<III", len(note_name), 4, note_type) + note_name + bytes(4)
    table = 64
    header = bytearray(table)
    header[:5] = b"\x7fELF\x02"
    struct.pack_into("<Q", header, 0x20, table)
    struct.pack_into("<HH", header, 0x36, 56, 1)
    return bytes(header) + struct.pack("<IIQQQQQQ", 4, 0, table + 56, 0, 0, len(note), len(note), 4) + note


def install(root: Path, release: str = RELEASE, modules: tuple[str, ...] = NEEDED_MODULES) -> Path:
    """Put an image and the index of its modules where a package would."""
    directory = root / "lib/modules" / release
    directory.mkdir(parents=True)
    (directory / "modules.dep").write_text("".join(f"kernel/x/{name}.ko:\n" for name in modules))
    image = root / "boot" / f"vmlinuz-{release}"
    image.parent.mkdir(exist_ok=True)
    image.write_bytes(bzimage(release))
    return image


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private tools tree, with nothing else installed."""
    monkeypatch.setenv("TESTBED_TOOLS", str(tmp_path / "tree"))
    monkeypatch.setenv("TESTBED_IGNORE_SYSTEM_TOOLS", "1")
    monkeypatch.delenv("TESTBED_KERNEL_IMAGE", raising=False)
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def test_an_image_says_its_release_itself_whatever_its_file_is_called(tmp_path: Path) -> None:
    image = tmp_path / "some-kernel"
    image.write_bytes(bzimage(RELEASE))
    assert read_release(image) == RELEASE


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "notes.txt"
    image.write_text("no kernel")
    with pytest.raises(UserError, match=r"notes.txt is no Linux kernel image for x86 \(bzImage\)"):
        read_release(image)
    with pytest.raises(UserError, match="nothing: No such file or directory: name a kernel image"):
        read_release(tmp_path / "nothing")


def test_modules_are_found_beside_the_image(tmp_path: Path, tree: Path) -> None:
    image = open_image(install(tmp_path / "elsewhere"))
    assert (image.release, image.modules) == (RELEASE, tmp_path / "elsewhere/lib/modules" / RELEASE)


def test_the_newest_image_that_a_guest_can_use_is_taken(tree: Path) -> None:
    install(tree, "6.1.0-9-amd64")
    wanted = install(tree, "6.12.0-1-amd64")
    install(tree, "6.13.0-1-cloud-amd64", modules=("virtio_pci",))
    assert find_image().path == wanted


def test_an_image_can_be_named_by_a_variable_and_by_the_user_who_wins(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = install(tmp_path / "one"), install(tmp_path / "other")
    monkeypatch.setenv("TESTBED_KERNEL_IMAGE", str(one))
    assert find_image().path == one
    assert find_image(other).path == other


def test_a_machine_without_any_image_is_told_how_to_get_one(tree: Path) -> None:
    with pytest.raises(MachineLacks, match="apt-get install linux-image-amd64"):
        find_image()


def test_a_kernel_for_clouds_is_told_by_what_it_lacks(tree: Path) -> None:
    image = install(tree, "6.1.0-9-cloud-amd64", modules=("virtio_pci", "virtio_console"))
    with pytest.raises(MachineLacks, match="a kernel for clouds without 9p") as caught:
        open_image(image)
    assert "apt-get install linux-image-amd64" in caught.value.remedy


def test_an_image_without_modules_is_told_where_they_were_looked_for(tree: Path) -> None:
    image = install(tree)
    (tree / "lib/modules" / RELEASE / "modules.dep").unlink()
    with pytest.raises(MachineLacks, match=f"no modules in {tree}/lib/modules/{RELEASE}"):
        open_image(image)
    (tree / "lib/modules" / RELEASE / "kernel").mkdir()
    with pytest.raises(MachineLacks, match="no index") as caught:
        open_image(image)
    assert caught.value.remedy == f"depmod -b {tree} {RELEASE}"


def test_modules_go_in_after_what_they_need_and_what_is_built_in_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "a/nine.ko: a/net-nine.ko a/cache.ko\na/net-nine.ko:\na/cache.ko:\n"
    )
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
    index = ModuleIndex.read(tmp_path)
    assert "virtio_pci" in index
    assert "net_nine" in index
    names = [path.name for path in index.in_order(["virtio_pci", "nine", "net_nine"])]
    assert names == ["cache.ko", "net-nine.ko", "nine.ko"]


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress)])
def test_packed_modules_are_unpacked(tmp_path: Path, suffix: str, pack: type[bytes]) -> None:
    path = tmp_path / f"veth.ko{suffix}"
    path.write_bytes(pack(b"\x7fELF code"))
    assert read_module(path) == b"\x7fELF code"


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, bytes])
def test_the_kernel_inside_an_image_is_unpacked_if_it_boots_by_itself(pack: type[bytes]) -> None:
    kernel = elf(b"Xen\0", 18)
    length = struct.pack("<I", len(kernel))
    assert extract(bzimage(RELEASE, pack(kernel) + length)) in (kernel, kernel + length)
    assert extract(bzimage(RELEASE, pack(elf(b"GNU\0", 3)) + length)) is None


def test_an_image_packed_in_a_way_that_is_not_known_is_booted_as_it_is() -> None:
    assert extract(bzimage(RELEASE, b"\x02\x21\x4c\x18 lz4")) is None
