"""Real object stores on this machine: MinIO for s3://, fake-gcs-server for gs://."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import time
import urllib.request

import fsspec
import pytest

_INSTALL = {
    "minio": "github.com/minio/minio@latest",
    "fake-gcs-server": "github.com/fsouza/fake-gcs-server@latest",
}


def _program(name):
    go_bin = ""
    if shutil.which("go"):
        path = subprocess.run(["go", "env", "GOPATH"], capture_output=True, text=True).stdout
        go_bin = os.path.join(path.strip(), "bin")
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), go_bin]))
    if not found:
        pytest.skip(f"needs {name}: go install {_INSTALL[name]}")
    return found


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(scheme, folder):
    """Run a store; yield the environment variables by which clients find it."""
    port, package = free_port(), {"s3": "s3fs", "gs": "gcsfs"}[scheme]
    if importlib.util.find_spec(package) is None:
        pytest.skip(
            f"needs {package}: pip install keras-alexnet[{'s3' if scheme == 's3' else 'gcs'}]"
        )
    address = f"http://127.0.0.1:{port}"
    if scheme == "s3":
        listen = (f"--address=127.0.0.1:{port}", f"--console-address=127.0.0.1:{free_port()}")
        command, ready = [_program("minio"), "server", *listen, str(folder)], "/minio/health/ready"
        secrets = {"MINIO_ROOT_USER": "minioadmin", "MINIO_ROOT_PASSWORD": "minioadmin"}
        found_by = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "minioadmin",
            "AWS_SECRET_ACCESS_KEY": "minioadmin",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    else:
        listen = ("-scheme=http", "-host=127.0.0.1", f"-port={port}", "-backend=memory")
        names = (f"-public-host=127.0.0.1:{port}", f"-external-url={address}")
        command, ready = [_program("fake-gcs-server"), *listen, *names], "/storage/v1/b?project=x"
        secrets = {}
        # Read by gcsfs when it is imported: see storage.py.
        no_bucket_types = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
        found_by = {"STORAGE_EMULATOR_HOST": address} | no_bucket_types
    with open(f"{folder}.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | secrets)
    try:
        for _ in range(600):  # a minute: only so that the test ends at all
            assert server.poll() is None, f"see {folder}.log"
            with contextlib.suppress(OSError), urllib.request.urlopen(address + ready, timeout=1):
                break
            time.sleep(0.1)
        yield found_by
    finally:
        server.kill()
        server.wait()


def make_bucket(scheme, name):
    options = {"token": "anon"} if scheme == "gs" else {}
    store = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False, **options)
    store.mkdir(name)
    return f"{scheme}://{name}"
