import itertools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import urllib.parse

import numpy as np
import pytest
import tensorflow as tf
import tf_serving_protos
import yaml
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from keras_alexnet.saved_model import versions, warmup
from keras_alexnet.saved_model.deployment import batch_sizes, write
from keras_alexnet.saved_model.warmup import MAX_BATCH

# Flags of tensorflow_model_server (tensorflow/serving, model_servers/main.cc, of 2022; since then
# some were added).
FLAGS = re.findall(
    r"\w+",
    """
    port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms
    rest_api_enable_cors_support enable_batching allow_version_labels_for_unavailable_models
    batching_parameters_file enable_per_model_batching_parameters model_config_file
    model_config_file_poll_wait_seconds model_name model_base_path num_load_threads
    num_unload_threads max_num_load_retries load_retry_interval_micros
    file_system_poll_wait_seconds flush_filesystem_caches tensorflow_session_parallelism
    tensorflow_session_config_file tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism
    use_alts_credentials ssl_config_file platform_config_file per_process_gpu_memory_fraction
    saved_model_tags grpc_channel_arguments grpc_max_threads enable_model_warmup
    num_request_iterations_for_warmup version monitoring_config_file
    remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools
    num_tflite_interpreters_per_pool enable_signature_method_name_check xla_cpu_compilation_enabled
    enable_profiler thread_pool_factory_config_file
    """,
)
NAMES = ["birds", "yes", "birds!", "Birds_v2.1", 'ünder "quotes" & $HOME\'s', "7" * 70]
CONFIGS = ["models.config", "batching.config", "monitoring.config", "ssl.config"]
FILES = [*CONFIGS, "kubernetes.yaml", "README.md"]


def written(tmp_path, name="birds"):
    """Return the texts by file name."""
    paths = write(str(tmp_path / "model"), name)
    return {os.path.basename(path): pathlib.Path(path).read_text("utf-8") for path in paths}


def parsed(text, message):
    return text_format.Parse(text, message())


def test_where_they_lie(tmp_path):
    paths = write(str(tmp_path / "birds"), "birds")
    folder = tmp_path / "birds" / "serving"
    assert paths == [str(folder / name) for name in FILES]
    assert sorted(os.listdir(folder)) == sorted(FILES)  # and nothing that was written aside
    assert versions.published(str(tmp_path / "birds")) == {}
    # What is there is left as it is.
    first = (folder / "ssl.config").read_text()
    (folder / "batching.config").write_text("# mine\n")
    (folder / "ssl.config").unlink()
    assert write(str(tmp_path / "birds"), "birds") == [str(folder / "ssl.config")]
    assert (folder / "ssl.config").read_text() == first
    assert (folder / "batching.config").read_text() == "# mine\n"


@pytest.mark.parametrize("name", NAMES)
def test_models_config(tmp_path, name):
    text = written(tmp_path, name)["models.config"]
    config = parsed(text, model_server_config_pb2.ModelServerConfig)
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == (name, f"/models/{name}")
    assert model.model_platform == "tensorflow"
    assert model.model_version_policy.latest.num_versions == 1
    (other,) = re.findall(r"specific \{.*\}", text)  # to stay at a version
    text = text.replace("latest { num_versions: 1 }", other)
    config = parsed(text, model_server_config_pb2.ModelServerConfig)
    assert config.model_config_list.config[0].model_version_policy.specific.versions == [1]


def test_batching_config(tmp_path):
    config = parsed(written(tmp_path)["batching.config"], tf_serving_protos.BatchingParameters)
    assert config.max_batch_size.value == MAX_BATCH
    # What batching_session.cc asks for.
    sizes = list(config.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == config.max_batch_size.value
    assert 0 < config.batch_timeout_micros.value <= 3000  # a photo alone waits so long
    assert config.num_batch_threads.value >= 1
    assert config.max_enqueued_batches.value >= config.num_batch_threads.value


@pytest.mark.parametrize("largest", [1, 48, 64])
def test_batch_sizes_end_with_the_largest(monkeypatch, largest):
    monkeypatch.setattr("keras_alexnet.saved_model.deployment.MAX_BATCH", largest)
    sizes = batch_sizes()
    assert sizes[0] == 1
    assert sizes[-1] == largest
    assert all(before < after <= 2 * before for before, after in itertools.pairwise(sizes))


def test_warmup_requests_have_allowed_sizes(tmp_path):
    inputs = {"pixels": {"images": np.zeros([2, 4, 4, 3], np.uint8)}}
    warmup.write(str(tmp_path), inputs=inputs, model_name="birds")
    seen = set()
    for record in tf.data.TFRecordDataset(str(tmp_path / warmup.PATH)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for proto in log.predict_log.request.inputs.values():
            seen.add(proto.tensor_shape.dim[0].size)
    assert seen
    assert seen <= set(batch_sizes())


def test_monitoring_and_ssl_config(tmp_path):
    texts = written(tmp_path)
    config = parsed(texts["monitoring.config"], tf_serving_protos.MonitoringConfig)
    assert config.prometheus_config.enable
    assert config.prometheus_config.path == "/monitoring/prometheus/metrics"
    config = parsed(texts["ssl.config"], tf_serving_protos.SSLConfig)  # an example, text not paths
    assert config.server_key.startswith("-----BEGIN PRIVATE KEY-----\n")
    assert config.server_cert.endswith("\n-----END CERTIFICATE-----\n")
    assert not config.custom_ca
    assert not config.client_verify


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys")
def test_readme_makes_an_ssl_config_of_a_key(tmp_path):
    tls = tmp_path / "tls"
    tls.mkdir()
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost "
        "-keyout server_key.pem -out server_cert.pem",
        shell=True,
        cwd=tls,
        check=True,
        capture_output=True,
    )
    readme = written(tmp_path)["README.md"]
    (command,) = re.findall(r"^    \( umask .*?ssl\.config \)$", readme, re.MULTILINE | re.DOTALL)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    config = parsed((tls / "ssl.config").read_text(), tf_serving_protos.SSLConfig)
    assert config.server_key == (tls / "server_key.pem").read_text()
    assert config.server_cert == (tls / "server_cert.pem").read_text()
    assert (tls / "ssl.config").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", NAMES)
def test_kubernetes(tmp_path, name):
    deployment, service = yaml.safe_load_all(written(tmp_path, name)["kubernetes.yaml"])
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    label = deployment["metadata"]["name"]
    # RFC 1035, what a Service asks of its name.
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", label)
    pod = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        request = container[probe]["httpGet"]
        assert ports[request["port"]] == 8501
        assert urllib.parse.unquote(request["path"]) == f"/v1/models/{name}"
        assert " " not in request["path"]
    (mount,) = container["volumeMounts"]
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {mount["name"]}
    require_existing_files(container["args"], tmp_path, name)


def require_existing_files(arguments, tmp_path, name):
    for argument in arguments:
        flag, _, value = argument.partition("=")
        assert flag.removeprefix("--") in FLAGS
        if flag.endswith("_file") and not value.startswith("/tls/"):
            folder, file_name = value.rsplit("/", 1)
            assert folder == f"/models/{name}/serving"
            assert (tmp_path / "model" / "serving" / file_name).is_file()


def docker_commands(readme):
    """Return the words of each: docker's, and TF Serving's behind the image's name."""
    text = readme.replace("\\\n", " ")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("    docker")]
    return [(words[: words.index(IMAGE)], words[words.index(IMAGE) + 1 :]) for words in commands]


IMAGE = "tensorflow/serving"


@pytest.mark.parametrize("name", NAMES)
def test_docker_commands(tmp_path, name):
    plain, with_files, with_tls = docker_commands(written(tmp_path, name)["README.md"])
    for docker, arguments in (plain, with_files, with_tls):
        assert f"$PWD:/models/{name}:ro" in docker
        require_existing_files(arguments, tmp_path, name)
    assert f"MODEL_NAME={name}" in plain[0]
    assert plain[1] == []
    flags = {argument.partition("=")[0] for argument in with_files[1]}
    assert flags > {"--model_config_file", "--batching_parameters_file", "--monitoring_config_file"}
    # batching_parameters_file without it is an error at start (server.cc).
    assert "--enable_batching" in with_files[1]
    assert with_tls[1] == [*with_files[1], "--ssl_config_file=/tls/ssl.config"]
    assert "8501:8501" in with_files[0]
    assert "8501:8501" not in with_tls[0]
