"""The client's side of TF Serving's REST API, with nothing but Python's own library."""

import base64
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence

from data_prep.command_line import UserError

# Of an answer that is quoted in an error.
_QUOTED_CHARACTERS = 200


def predict(
    server: str, model: str, signature: str, photos: Sequence[bytes], timeout: float
) -> Mapping[str, Sequence[object]]:
    """Sends photos to a signature whose input is `image_bytes`.

    Args:
        server: "http://HOST:PORT" or "https://HOST:PORT".
        model: its name.
        signature: its name.
        photos: contents of files.
        timeout: seconds.

    Returns:
        An entry a photo, by the name of the output.

    Raises:
        UserError: no answer, or an error.
    """
    url = f"{server.rstrip('/')}/v1/models/{urllib.parse.quote(model, safe='')}:predict"
    encoded = [{"b64": base64.b64encode(photo).decode()} for photo in photos]
    body = json.dumps({"signature_name": signature, "inputs": {"image_bytes": encoded}}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    # A proxy of the environment is for the world, not for a server that was named by address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as response:
            return json.loads(response.read())["outputs"]
    except urllib.error.HTTPError as error:
        raise UserError(
            f"{server} answers {error.code}: {_message(error.read())}; {_advice(error.code)}"
        ) from error
    except TimeoutError as error:
        raise UserError(f"{server} did not answer in {timeout:g} s; raise --timeout") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise UserError(f"{server} did not answer in {timeout:g} s; raise --timeout") from error
        raise UserError(
            f"{server} cannot be reached ({error.reason}); start the server, or check --server"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"{server} broke off the connection ({type(error).__name__}); check that --server "
            f"is a REST port"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{server} does not answer as TF Serving does ({error!r}); check --server"
        ) from error


def _message(body: bytes) -> str:
    """The error that TF Serving wrote, or what else there is."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:_QUOTED_CHARACTERS].decode("utf-8", "replace") or "(nothing)"


def _advice(status: int) -> str:
    if status == http.client.NOT_FOUND:
        return "check --model"
    if status >= http.client.INTERNAL_SERVER_ERROR:
        return "try again, or look into the server's log"
    return "check that the model was exported by keras_alexnet.export"
