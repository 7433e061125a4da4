"""A headless Chromium for tests of pages, driven by Selenium."""

import base64
import contextlib
import json
import shutil

import numpy as np
import pytest

# Root has no sandbox; the rest keeps the browser from asking its maker for things.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def chromium(profile):
    """A driven browser with an empty profile folder; skips the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
    binary = next(filter(None, map(shutil.which, _NAMES)), None)
    driver_binary = shutil.which("chromedriver")
    if not binary or not driver_binary:
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # With both paths given, Selenium does not look for downloads.
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_binary))
    try:
        yield driver
    finally:
        driver.quit()


def forget_logs(driver):
    """Leave the page, and with it what `requested_urls` and `console` have of it."""
    driver.get("about:blank")
    requested_urls(driver)
    console(driver)


def requested_urls(driver):
    """Return the addresses of all requests since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def console(driver):
    """Return errors, warnings and violations of the page's policy since the last call, as texts."""
    return [entry["message"] for entry in driver.get_log("browser")]


def resize(driver, width, height):
    """Show pages as in a window of some size, also narrower than windows can be."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )


def prefer(driver, **features):
    """Set media features for pages, such as prefers_reduced_motion="reduce"; without, none."""
    features = [
        {"name": name.replace("_", "-"), "value": value} for name, value in features.items()
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def canvas_pixels(driver, canvas):
    """Return the pixels of a canvas element, uint8 [height, width, 4] RGBA."""
    height, width, encoded = driver.execute_script(
        """
        const {width, height} = arguments[0];
        const {data} = arguments[0].getContext("2d").getImageData(0, 0, width, height);
        return [height, width, btoa(Array.from(data, (v) => String.fromCharCode(v)).join(""))];
        """,
        canvas,
    )
    return np.frombuffer(base64.b64decode(encoded), np.uint8).reshape(height, width, 4)


def wait_for(driver, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 60).until(lambda _: condition())


def by_id(driver, name):
    return driver.find_element("id", name)


def text_of(driver, name):
    return by_id(driver, name).text


def all_of(driver, selector):
    return driver.find_elements("css selector", selector)


def texts_of(driver, selector):
    return [element.text for element in all_of(driver, selector)]


def active(driver):
    return driver.switch_to.active_element


def press(driver, *keys):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(driver).send_keys(*(getattr(Keys, key) for key in keys)).perform()


def give(driver, *photos, way="drop"):
    """Drop or paste (name, bytes) as a person does; return whether the page took them."""
    files = [(name, base64.b64encode(data).decode()) for name, data in photos]
    return driver.execute_script(
        """
        const [files, way] = arguments;
        const transfer = new DataTransfer();
        for (const [name, encoded] of files) {
          const data = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
          transfer.items.add(new File([data], name));
        }
        const event = way === "drop"
          ? new DragEvent(way, { dataTransfer: transfer, bubbles: true, cancelable: true })
          : new ClipboardEvent(way, { clipboardData: transfer, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
        return event.defaultPrevented;
        """,
        files,
        way,
    )
