"""Runs the checks of one scenario in their order, one line each, and counts them."""

import json
import os
import ssl
import sys
import traceback
import urllib.request

PORT = int(os.environ["EMULATOR_PORT"])
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
DPS = f"HostName=localhost:{PORT};SharedAccessKeyName=provisioningserviceowner;SharedAccessKey={KEY}"
HUB = f"HostName=localhost:{PORT};SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}"

_passed = 0
_failed = 0


def check(name, act):
    """Runs one check; a failure is told, and the next one runs all the same."""
    global _passed, _failed
    try:
        act()
        _passed += 1
        print(f"  ok {name}", flush=True)
    except Exception:
        _failed += 1
        print(f"  FAILED {name}", flush=True)
        traceback.print_exc()


def end():
    """The last line tells the numbers; the runner adds them up."""
    print(f"{_passed} passed, {_failed} failed", flush=True)
    sys.exit(1 if _failed else 0)


def expect(kind, act):
    """The error that `act` raises, which must be of `kind`."""
    try:
        told = act()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}, but {told!r}")


def command(**fields):
    """Drives the emulator."""
    context = ssl.create_default_context(cafile=os.environ["EMULATOR_CA"])
    request = urllib.request.Request(
        f"https://localhost:{PORT}/_emulator/commands",
        data=json.dumps(fields).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, context=context) as answer:
        return json.load(answer)["result"]
