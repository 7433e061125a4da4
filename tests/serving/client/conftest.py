import pytest


@pytest.fixture(scope="module")
def rest_server():
    import serving_answers  # here: it imports TensorFlow

    with serving_answers.rest_server() as server:
        yield server


@pytest.fixture
def server(rest_server):
    """Return a stand-in by REST, one for all tests of a module; a test may replace its answers."""
    import serving_answers

    rest_server.answer = serving_answers.predicted
    rest_server.asked.clear()
    return rest_server
