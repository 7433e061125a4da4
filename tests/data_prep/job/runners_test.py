"""The same bytes, whoever runs the job: each of Beam's runners that can be had on one machine."""

import os
import subprocess
import sys
import time

import pytest
from photo_folders import arguments, contents
from repository import ROOT

from data_prep import prepare


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_processes_write_the_same_bytes(prepared, photos, tmp_path, workers):
    processes = ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    prepare.prepare(**arguments(photos, tmp_path / "data", beam_options=processes))
    assert contents(tmp_path / "data") == contents(prepared[0])


def test_threads_write_the_same_bytes(prepared, photos, tmp_path):
    threads = ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]
    prepare.prepare(**arguments(photos, tmp_path / "data", beam_options=threads))
    assert contents(tmp_path / "data") == contents(prepared[0])


@pytest.fixture
def job_service(tmp_path):
    """Yield the address of a portable job service in a process of its own."""
    port_file = tmp_path / "port"
    with open(tmp_path / "log", "w") as log:
        service = subprocess.Popen(
            [
                *(sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main"),
                *("--port=0", f"--port_file={port_file}", f"--staging_dir={tmp_path / 'staged'}"),
            ],
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    try:
        for _ in range(600):  # a minute: only so that the test ends at all
            if port_file.exists() and port_file.read_text():
                break
            assert service.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield f"localhost:{port_file.read_text()}"
    finally:
        service.kill()
        service.wait()


@pytest.mark.slow
def test_the_portable_runner_writes_the_same_bytes(prepared, photos, tmp_path, job_service):
    portable = [
        "--runner=PortableRunner",
        f"--job_endpoint={job_service}",
        "--environment_type=LOOPBACK",
    ]
    prepare.prepare(**arguments(photos, tmp_path / "data", beam_options=portable))
    assert contents(tmp_path / "data") == contents(prepared[0])


# Dask starts its workers anew from this file's folder: they need the repository on their path.
DASK = """
import sys
from dask.distributed import LocalCluster
from data_prep import prepare

if __name__ == "__main__":
    with LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster:
        options = [
            "--runner=apache_beam.runners.dask.dask_runner.DaskRunner",
            f"--dask_client_address={cluster.scheduler_address}",
            "--dask_partition_size=1",
        ]
        prepare.prepare(**eval(sys.argv[1]), beam_options=options)
"""


@pytest.mark.slow
def test_two_processes_of_dask_write_the_same_bytes(prepared, photos, tmp_path):
    (tmp_path / "dask_job.py").write_text(DASK)
    wanted = arguments(photos, tmp_path / "data")
    wanted.pop("beam_options")
    result = subprocess.run(
        [sys.executable, tmp_path / "dask_job.py", repr(wanted)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "data") == contents(prepared[0])
