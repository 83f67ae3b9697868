"""The installed package works outside its source tree."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from flax_ner.data.cluener import write_cluener
from flax_ner.text.examples import Entity, Example

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "requirements.txt",
    "README.md",
    "LICENSE",
    "train.py",
)


@pytest.mark.slow
def test_an_installed_wheel_works_outside_the_source_tree(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "-w", tmp_path / "wheel", ROOT], check=True, timeout=300
    )
    (wheel,) = (tmp_path / "wheel").glob("flax_ner-*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [*pip, "install", "-q", "--no-deps", "--target", site, wheel], check=True, timeout=300
    )
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {
        "flax_ner",
        "bin",
    }
    code = (
        "import sys, flax_ner.text.tokenizer; assert 'jax' not in sys.modules; "
        "from flax_ner import load; import flax_ner; print(flax_ner.__file__, load.__name__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert result.stdout.split() == [str(site / "flax_ner" / "__init__.py"), "load"]
    configs = {path.name for path in (site / "flax_ner" / "configs").glob("*.py")}
    assert configs == {path.name for path in (ROOT / "configs").glob("*.py")}
    texts = [Example(f"王建国在{i}", (Entity("name", 0, 3, "王建国"),)) for i in range(20)]
    write_cluener(tmp_path / "mine.json", texts)
    script = [sys.executable, site / "bin" / "flax-ner"]
    options = (
        "train --config cluener_scratch --workdir run --data.train mine.json --data.dev mine.json "
        "--train.steps=2 --model.hidden-size 16 --model.num_attention_heads=2 --model.num-hidden-layers 1 "
        "--model.intermediate-size 16"
    )
    trained = subprocess.run(
        [*script, *options.split()], cwd=tmp_path, env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "best" / "config.json").is_file()


@pytest.mark.slow
def test_an_editable_install_works_beside_a_clone_named_as_the_package(tmp_path: Path) -> None:
    clone = tmp_path / "flax_ner"
    for folder in ("flax_ner", "configs", "convert"):
        shutil.copytree(ROOT / folder, clone / folder)
    for name in SOURCES:
        shutil.copy(ROOT / name, clone)
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=120)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", "-q", "--no-deps", "-e", clone], check=True, timeout=300)
    # Use the dependencies of this environment. Python ignores .pth files in a folder that a .pth file names, so
    # the editable install of this environment is not visible.
    (site,) = (venv / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    def output(*arguments: str | Path, cwd: Path) -> str:
        result = subprocess.run(
            [python, *arguments], cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True,
            text=True, check=False, timeout=120,
        )  # fmt: skip
        return result.stdout + result.stderr

    code = "from flax_ner import load; import flax_ner; print(flax_ner.__file__)"
    for cwd in (tmp_path, clone, clone / "configs"):
        assert output("-c", code, cwd=cwd).strip() == str(clone / "flax_ner" / "__init__.py")
    unknown = output("-m", "flax_ner", "train", "--config", "nowhere", cwd=tmp_path)
    assert f"The configuration files are in {clone / 'configs'}." in unknown
    assert output("-m", "flax_ner", "--help", cwd=tmp_path).startswith("usage: flax_ner")
    assert output(clone / "train.py", cwd=tmp_path).startswith("train.py: --config is missing")
    for script in ("torch_to_flax.py", "flax_to_torch.py"):
        help_text = output(clone / "convert" / script, "--help", cwd=tmp_path)
        assert help_text.startswith(f"usage: {script}")


@pytest.mark.slow
def test_the_files_that_the_dockerfile_copies_suffice(tmp_path: Path) -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text("utf-8").splitlines()
    for line in lines:
        match line.split():
            case ["COPY", *names, target] if not line.startswith("COPY --from"):
                for name in names:
                    new = (
                        tmp_path / target / Path(name).name
                        if target.endswith("/")
                        else tmp_path / target
                    )
                    new.parent.mkdir(exist_ok=True)
                    copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                    copy(ROOT / name, new)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--target", tmp_path / "site", tmp_path], check=True, timeout=300)
    assert (tmp_path / "site/flax_ner/configs/cluener.py").exists()
    assert (tmp_path / "site/bin/flax-ner").exists()
