import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from bench.operator_python import from_here, unpacked
from vdi.devcluster.images.archive import ImageConfig, write_archive


def test_operator_runs_with_the_current_python() -> None:
    program = from_here()
    question = (
        "import platform, msgspec, vdi.kube.http as found; print(platform.python_version(),"
        " found.__file__)"
    )
    environment = {**os.environ, **program.environment}
    asked = [program.argv[0], "-c", question]
    reported = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    said, found = reported.stdout.split()
    assert program.python == f"{said} ({program.argv[0]})"
    assert said.split(".")[:2] == [str(sys.version_info.major), str(sys.version_info.minor)]
    import vdi.kube.http

    assert Path(found) == Path(vdi.kube.http.__file__)


def test_image_operator_runs_with_the_loader_of_the_image(tmp_path: Path) -> None:
    files = {
        "usr/lib/some-linux-gnu/ld-linux-some.so.1": '#!/bin/sh\nshift 2\nexec "$@"\n',
        "usr/bin/python3.13": "#!/bin/sh\necho 3.13.99\n",
        "opt/vdi/lib/python3.13/site-packages/vdi/__init__.py": "",
        "etc/shadow": "not needed",
    }
    layer, archive, root = tmp_path / "layer.tar", tmp_path / "image.tar", tmp_path / "root"
    with tarfile.open(layer, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content.encode()))
    write_archive(archive, name="n:1", layer=layer, config=ImageConfig(), arch="amd64", comment="")

    program = unpacked(archive, root)

    assert program.python == "3.13.99 (of the image)"
    assert program.argv[0] == str(root / "usr/lib/some-linux-gnu/ld-linux-some.so.1")
    assert program.argv[-3:] == [str(root / "usr/bin/python3.13"), "-m", "vdi.operator"]
    assert program.environment["PYTHONPATH"] == str(root / "opt/vdi/lib/python3.13/site-packages")
    assert program.environment["MALLOC_TRIM_THRESHOLD_"] == "131072"
    assert not (root / "etc").exists()
