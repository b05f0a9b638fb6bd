"""What is around kernels and needs no GPU: finding and opening libraries, compiling, the cache, the report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from checks import TESTS, run_python

import recurra.cuda
from recurra import _core

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CUDA is for Linux")

FILES = ("libcuda.so.1", "libnvrtc.so.13", "libcublas.so.13")
FOUND = """
from recurra._core import cuda
for library in cuda.found():
    print(*(library[key] for key in ("name", "path", "version", "problem")), sep="|")
"""
LOCATED = "from recurra.cuda import _libraries\n_libraries.locate()\n" + FOUND
COMPILE = "import sys\nfrom recurra._core import cuda\nsys.stdout.write(cuda.cached(*eval(sys.argv[1])).decode())"
Folder = Callable[..., Path]


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Makes folders with fakes of the libraries, of all or of those named; `without` is a function that they lack."""
    compiler = shutil.which("c++")
    if not compiler:
        pytest.skip("there is no C++ compiler")
    built: dict[tuple[str, str], Path] = {}

    def library(file: str, without: str) -> Path:
        if (file, without) not in built:
            path = tmp_path_factory.mktemp("fake") / file
            sources = [str(TESTS / "cuda" / "fake" / name) for name in ("fake.cpp", "everything.cpp")]
            flags = ["-std=c++17", "-shared", "-fPIC", f"-Wl,-soname,{file}"]
            flags += [f"-D{without}=absent"] if without else []
            subprocess.run([compiler, *flags, *sources, "-o", str(path)], check=True)
            built[file, without] = path
        return built[file, without]

    def folder(*files: str, without: str = "", at: Path | None = None) -> Path:
        place = at or tmp_path_factory.mktemp("libraries")
        place.mkdir(parents=True, exist_ok=True)
        for file in files or FILES:
            shutil.copy(library(file, without), place / file)
        return place

    return folder


def found(script: str = FOUND, *arguments: str, **environment: str) -> dict[str, tuple[str, str, str]]:
    """Path, version and problem of each library, as a fresh process sees them."""
    lines = [line.split("|") for line in run_python(script, *arguments, **environment).splitlines()]
    return {name: (path, version, problem) for name, path, version, problem in lines}


def report(*options: str, **environment: str) -> tuple[int, str]:
    """Exit status and output of the command, or of what else Python's options say."""
    done = subprocess.run(
        [sys.executable, *(options or ("-m", "recurra", "cuda", "--until", "found"))],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert not done.stderr
    return done.returncode, done.stdout


def cubin(folder: Path, cache: Path | str, source: str = "source", *options: str, **environment: str) -> str:
    """What a fresh process has compiled, or found in the cache."""
    arguments = repr((source, list(options), "sm_80"))
    return run_python(
        COMPILE, arguments, RECURRA_CUDA_LIBRARIES=str(folder), RECURRA_CACHE_DIR=str(cache), **environment
    )


# ---- libraries


def test_importing_opens_no_library(fake: Folder) -> None:
    script = "import recurra, recurra.cuda\nprint(open('/proc/self/maps').read())"
    maps = run_python(script, RECURRA_CUDA_LIBRARIES=str(fake()))
    assert "_core" in maps
    assert not any(name in maps for name in ("libcuda", "libnvrtc", "libcublas"))


def test_without_a_driver_the_report_says_so_and_fails() -> None:
    if not _core.cuda.found()[0]["problem"]:
        pytest.skip("there is a driver")
    status, text = report()
    assert status == 1
    assert "NVIDIA driver (libcuda.so.1)" in text
    assert text.endswith("There is no GPU that recurra can use.\n")
    assert report("-m", "recurra", "cuda")[1] == text
    with pytest.raises(RuntimeError, match="NVIDIA driver"):
        recurra.cuda.precompile(["gru"])


@pytest.mark.parametrize(
    ("library", "file", "mended_by"),
    [("nvrtc", "libnvrtc.so.13", "nvidia-cuda-nvrtc"), ("cublas", "libcublas.so.13", "nvidia-cublas")],
)
def test_what_is_missing_is_named_with_the_command_that_mends_it(
    library: str, file: str, mended_by: str, fake: Folder
) -> None:
    if found()[library][0]:
        pytest.skip(f"there is {library}")
    folder = str(fake(*(other for other in FILES if other != file)))
    without_wheels = """
from recurra.cuda import _libraries, report
_libraries.locate = lambda: None
raise SystemExit(report.run())
"""
    status, text = report("-c", without_wheels, RECURRA_CUDA_LIBRARIES=folder)
    assert status == 1
    assert f"({file} or {file[:-2]}12), which was not found: pip install {mended_by}\n" in text
    # A driver of CUDA 12 runs nothing of CUDA 13.
    status, text = report("-c", without_wheels, RECURRA_CUDA_LIBRARIES=folder, FAKE_DRIVER="12040")
    assert status == 1
    assert f": pip install {mended_by}-cu12\n" in text


def test_the_report_of_a_machine_that_has_everything(fake: Folder, tmp_path: Path) -> None:
    folder, cache = fake(), tmp_path / "cache"
    environment = {"RECURRA_CUDA_LIBRARIES": str(folder), "RECURRA_CACHE_DIR": str(cache)}
    cubin(folder, cache)
    status, text = report(**environment)
    assert status == 0
    assert text.splitlines() == [
        f"driver  CUDA 13.0  {folder}/libcuda.so.1",
        f"NVRTC   13.1  {folder}/libnvrtc.so.13",
        f"cuBLAS  13.2.1  {folder}/libcublas.so.13",
        "cuda:0  Fake GPU, compute capability 9.0, 132 multiprocessors",
        f"cache   {cache} (1 kernels, 0.0 MiB)",
    ]


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"FAKE_DRIVER": "11080"}, "CUDA: the NVIDIA driver is for CUDA 11.8, and 12.0 or later is needed"),
        ({"FAKE_INIT": "100"}, "CUDA: the NVIDIA driver finds no GPU that this process may use (cuInit: CUDA_ERROR_NO"),
        ({"FAKE_INIT": "999"}, "cuInit: CUDA_ERROR, so says the fake"),
        ({"FAKE_INIT": "3"}, "CUDA cannot be used in a process that was forked"),
    ],
)
def test_a_driver_that_is_of_no_use_is_refused_by_name(environment: dict[str, str], problem: str, fake: Folder) -> None:
    folder = fake()
    path, version, said = found(RECURRA_CUDA_LIBRARIES=str(folder), **environment)["driver"]
    assert path == f"{folder}/libcuda.so.1"
    assert version == ("11.8" if "FAKE_DRIVER" in environment else "13.0")
    assert said.startswith(problem)
    status, text = report(RECURRA_CUDA_LIBRARIES=str(folder), **environment)
    assert status == 1
    assert problem in text


@pytest.mark.parametrize(
    ("number", "symbol"), [(0, "cuGraphAddKernelNode_v2"), (1, "nvrtcGetCUBIN"), (2, "cublasGemmStridedBatchedEx")]
)
def test_a_function_that_a_library_lacks_is_named(number: int, symbol: str, fake: Folder) -> None:
    folder = fake(FILES[number], without=symbol)
    for file in FILES:
        if file != FILES[number]:
            fake(file, at=folder)
    all_found = found(RECURRA_CUDA_LIBRARIES=str(folder))
    for i, name in enumerate(("driver", "nvrtc", "cublas")):
        problem = all_found[name][2]
        assert (f"has no function {symbol}, a newer one is needed" in problem) if i == number else not problem


def test_a_damaged_library_that_was_asked_for_is_not_passed_over(fake: Folder, tmp_path: Path) -> None:
    folder = fake("libnvrtc.so.12")
    (folder / "libnvrtc.so.13").write_text("not a library")
    assert str(folder / "libnvrtc.so.13") in found(RECURRA_CUDA_LIBRARIES=str(folder))["nvrtc"][2]
    script = "import sys\nfrom recurra._core import cuda\ncuda.set_library_path('nvrtc', sys.argv[1])\n" + FOUND
    assert str(folder / "libnvrtc.so.13") in found(script, str(folder / "libnvrtc.so.13"))["nvrtc"][2]


def test_where_libraries_are_looked_for_and_in_which_order(fake: Folder) -> None:
    names = ("libnvrtc.so.13", "libnvrtc.so.12")
    asked, loaded, told, system = (fake(*names) for _ in range(4))
    setup = "import ctypes, sys\nfrom recurra._core import cuda\n"
    load = f"ctypes.CDLL({str(loaded / names[1])!r})\n"  # an older one too: CuPy or PyTorch uses it
    tell = f"cuda.set_library_path('nvrtc', {str(told / names[0])!r})\n"

    def path(script: str, **environment: str) -> str:
        return found(setup + script + FOUND, LD_LIBRARY_PATH=str(system), **environment)["nvrtc"][0]

    assert path("") == str(system / names[0])
    assert path(tell) == str(told / names[0])
    assert path(load) == str(loaded / names[1])
    assert path(load + tell) == str(loaded / names[1])
    assert path(load + tell, RECURRA_CUDA_LIBRARIES=str(asked)) == str(asked / names[0])
    (asked / names[0]).unlink()
    assert path(load + tell, RECURRA_CUDA_LIBRARIES=str(asked)) == str(asked / names[1])


def test_a_library_that_comes_later_is_found(fake: Folder) -> None:
    script = """
import sys
from recurra._core import cuda
for _ in range(2):
    try:
        cuda.compile("", [], "sm_80")
        raise AssertionError("found")
    except RuntimeError as error:
        assert "no/such" not in str(error) and "NVRTC" in str(error), error
    cuda.set_library_path("nvrtc", "/no/such/file")
cuda.set_library_path("nvrtc", sys.argv[1])
cuda.compile("", [], "sm_80")
"""
    if found()["nvrtc"][0]:
        pytest.skip("there is NVRTC")
    run_python(script, str(fake("libnvrtc.so.13") / "libnvrtc.so.13"))


def test_a_library_with_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match='library must be "nvrtc" or "cublas", got "cuda"'):
        _core.cuda.set_library_path("cuda", "")


@pytest.mark.parametrize(
    "place",
    ["cu13/lib/libnvrtc.so.13", "cuda_nvrtc/lib/libnvrtc.so.12", "cu13/lib/libcublas.so.13"],
)
def test_nvidias_wheels_are_found_on_the_path(place: str, fake: Folder, tmp_path: Path) -> None:
    file = tmp_path / "nvidia" / place
    fake(file.name, at=file.parent)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.modules['cuda'] = None\n" + LOCATED
    assert found(script)["nvrtc" if "nvrtc" in file.name else "cublas"][0] == str(file)


def test_condas_folder_is_found(fake: Folder, tmp_path: Path) -> None:
    fake("libnvrtc.so.13", at=tmp_path / "lib")
    script = f"""
import sys
from recurra.cuda import _libraries
sys.modules["cuda"], sys.path, sys.prefix = None, [], {str(tmp_path)!r}
_libraries.locate()
"""
    assert found(script + FOUND)["nvrtc"][0] == str(tmp_path / "lib" / "libnvrtc.so.13")


def test_nvidias_own_finder_is_asked_first(fake: Folder, tmp_path: Path) -> None:
    file = fake("libnvrtc.so.13") / "libnvrtc.so.13"
    fake("libnvrtc.so.13", "libcublas.so.13", at=tmp_path / "nvidia" / "cu13" / "lib")
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "pathfinder.py").write_text(f"""
import types
def load_nvidia_dynamic_lib(name):
    if name == "nvrtc":
        return types.SimpleNamespace(abs_path={str(file)!r})
    raise RuntimeError("not found")
""")
    all_found = found(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + LOCATED)
    assert all_found["nvrtc"][0] == str(file)
    assert all_found["cublas"][0] == str(tmp_path / "nvidia" / "cu13" / "lib" / "libcublas.so.13")


# ---- devices, threads and processes


def test_devices(fake: Folder) -> None:
    script = """
from recurra._core import cuda
print(cuda.device_count(), cuda.device(1)["name"])
for ordinal in (-1, 2):
    try:
        cuda.device(ordinal)
    except ValueError as error:
        print(error)
"""
    assert run_python(script, RECURRA_CUDA_LIBRARIES=str(fake()), FAKE_GPUS="2").splitlines() == [
        "2 Fake GPU",
        "device: there are 2 GPUs, counted from 0; got cuda:-1",
        "device: there are 2 GPUs, counted from 0; got cuda:2",
    ]
    assert run_python("from recurra._core import cuda\nprint(cuda.device_count())", FAKE_INIT="100").strip() == "0"


def test_a_forked_child_is_told_how_to_start_instead(fake: Folder) -> None:
    script = """
import os
from recurra._core import cuda

def child(expected):
    if os.fork() == 0:
        try:
            said = cuda.device(0)["name"]
        except RuntimeError as error:
            said = str(error)
        os._exit(0 if expected in said else 1)
    assert os.wait()[1] == 0

child("Fake GPU")  # nothing was used yet
cuda.device(0)
child('multiprocessing\\'s "spawn"')
assert cuda.device(0)["name"] == "Fake GPU"
"""
    run_python(script, RECURRA_CUDA_LIBRARIES=str(fake()))


def test_children_forked_while_threads_open_libraries_do_not_hang(fake: Folder) -> None:
    script = """
import os, threading
from recurra._core import cuda
going = True

def use():
    while going:
        cuda.found()

threads = [threading.Thread(target=use) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(50):
    if os.fork() == 0:
        cuda.found()
        cuda.cached("source", [], "sm_80")
        os._exit(0)
for _ in range(50):
    assert os.wait()[1] == 0
going = False
"""
    run_python(script, RECURRA_CUDA_LIBRARIES=str(fake()), RECURRA_CACHE_DIR="")


def test_threads_that_come_at_once_all_have_the_libraries(fake: Folder) -> None:
    script = """
import threading
from recurra._core import cuda
barrier, results = threading.Barrier(8), []

def use():
    barrier.wait()
    results.append((cuda.device(0)["name"], cuda.compile("source", [], "sm_80")))

threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(results) == 8 and all(result == results[0] for result in results)
"""
    run_python(script, RECURRA_CUDA_LIBRARIES=str(fake()))


# ---- compiling and the cache


def test_the_compiler_gets_options_and_its_complaints_are_shown(fake: Folder) -> None:
    script = """
from recurra._core import cuda
print(cuda.compile("the source", ["-fmad=false"], "sm_90a")[0].decode())
for source, architecture in (("wrong", "sm_80"), ("", "sm_999")):
    try:
        cuda.compile(source, [], architecture)
    except RuntimeError as error:
        print(error)
"""
    text = run_python(script, RECURRA_CUDA_LIBRARIES=str(fake()))
    for option in ("-std=c++17", "-default-device", "--gpu-architecture=sm_90a", "-fmad=false", "the source"):
        assert f"{option}\n" in text
    assert "NVRTC 13.1, sm_80: error 6\nrecurra.cu(1): error: this is wrong\n" in text
    assert "NVRTC 13.1 cannot compile for sm_999: another version may, pip install -U nvidia-cuda-nvrtc\n" in text


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often processes have compiled since the last call."""
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))

    def compiled() -> int:
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return len(lines)

    return compiled


def test_what_was_compiled_is_kept_on_disk(fake: Folder, tmp_path: Path, count: Callable[[], int]) -> None:
    folder, cache = fake(), tmp_path / "made" / "cache"
    first = cubin(folder, cache)
    assert count() == 1
    assert first.endswith("\nsource")
    assert cubin(folder, cache) == first
    assert count() == 0
    changed = [("other",), ("source", "-a"), ("source", "-b"), ("source", "-a", "-b"), ("source", "-a-b")]
    for arguments in changed:
        assert cubin(folder, cache, *arguments) != first
        assert count() == 1
    assert cubin(folder, cache, FAKE_NVRTC="12") == first
    assert count() == 1
    assert len(list(cache.iterdir())) == 2 + len(changed)
    assert all(file.suffix == ".cubin" for file in cache.iterdir())


def damaged(content: bytes) -> list[bytes]:
    """The ways a file may be broken."""
    flipped = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in (0, 20, 60, len(content) - 1)]
    return [*flipped, b"", content[:1], content[:30], content[:75], content[:-1], content + b"\0", b"\0" * len(content)]


def test_a_damaged_file_is_compiled_anew_and_replaced(fake: Folder, tmp_path: Path, count: Callable[[], int]) -> None:
    folder = fake()
    expected = cubin(folder, tmp_path / "cache")
    [file] = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    other = cubin(folder, tmp_path / "other", "other")
    assert other != expected
    [file_of_other] = (tmp_path / "other").iterdir()
    count()
    for broken in [*damaged(content), file_of_other.read_bytes()]:
        file.write_bytes(broken)
        assert cubin(folder, tmp_path / "cache") == expected
        assert count() == 1
        assert file.read_bytes() == content
    assert list((tmp_path / "cache").iterdir()) == [file]


def test_where_nothing_can_be_kept_it_is_compiled_each_time(
    fake: Folder, tmp_path: Path, count: Callable[[], int]
) -> None:
    folder = fake()
    file = tmp_path / "file"
    file.write_text("")
    for cache in ("", str(file), str(file / "below"), "/proc/no"):  # not by permissions, which root does not mind
        assert cubin(folder, cache) == cubin(folder, cache)
        assert count() == 2
    assert file.read_text() == ""


def test_a_folder_that_may_only_be_read_is_read(fake: Folder, tmp_path: Path) -> None:
    script = """
import os, sys
from recurra._core import cuda
os.chdir(sys.argv[1])  # a path from here can be followed without leave of the folders above
cuda.cached("source", [], "sm_80")
kept = os.listdir()
if os.geteuid() == 0:  # root may write everywhere
    for path in (".", *kept):
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
os.chmod(".", 0o500)
try:
    open("new", "w")
    raise AssertionError("the folder can be written to")
except PermissionError:
    pass
os.environ["FAKE_MORE"] = " compiled anew"
assert cuda.cached("source", [], "sm_80").endswith(b"source")
assert cuda.cached("other", [], "sm_80").endswith(b"other compiled anew")
assert os.listdir() == kept and len(kept) == 1
"""
    run_python(script, str(tmp_path), RECURRA_CUDA_LIBRARIES=str(fake()), RECURRA_CACHE_DIR=".")


def test_processes_may_fill_the_cache_together(fake: Folder, tmp_path: Path) -> None:
    folder, cache = fake(), tmp_path / "cache"
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: cubin(folder, cache), range(16)))
    assert len(set(results)) == 1
    assert len(list(cache.iterdir())) == 1


def test_where_the_cache_is() -> None:
    script = "import os, sys\nfrom recurra._core import cuda\nprint(cuda.cache_folder())"

    def folder(**environment: str) -> str:
        clean = "import os\nfor name in ('RECURRA_CACHE_DIR', 'XDG_CACHE_HOME', 'HOME'): os.environ.pop(name, None)\n"
        return run_python(clean + f"os.environ.update({environment!r})\n" + script).removesuffix("\n")

    assert folder(HOME="/h") == "/h/.cache/recurra"
    assert folder(HOME="/h", XDG_CACHE_HOME="/c") == "/c/recurra"
    assert folder(HOME="/h", XDG_CACHE_HOME="c") == "/h/.cache/recurra"
    assert folder(HOME="/h", XDG_CACHE_HOME="/c", RECURRA_CACHE_DIR="/r") == "/r"
    assert folder(HOME="/h", RECURRA_CACHE_DIR="") == ""
    assert folder() == ""


@pytest.mark.parametrize("backward", (False, True))
@pytest.mark.parametrize(
    ("cell", "dtype", "hidden", "rows"),
    [
        ("lstm", "float32", 2**30, 1),
        ("lstm", "float32", 2**31 - 1, 1),
        ("gru", "float32", 1431655745, 1),
        ("sru", "float64", 1024, 4),  # a thread would need 144 of 128 registers
    ],
)
def test_a_kernel_of_all_steps_is_not_made_for_sizes_that_fit_no_block(
    cell: str, dtype: str, hidden: int, rows: int, backward: bool
) -> None:
    with pytest.raises(ValueError, match="hidden: expected one that fits into a block"):
        _core.cuda.resident_unit(cell, dtype, hidden, hidden, rows, backward)
    assert _core.cuda.resident_unit(cell, dtype, 64, 64, rows, backward)
