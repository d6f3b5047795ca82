"""What the Python tests share: a counter of checks."""
import sys
import traceback

_counts = [0, 0]               # failed, passed


def expect(ok, what):
    """Counts one check; a failed one prints what was expected."""
    _counts[bool(ok)] += 1
    if not ok:
        print(f"FAILED: {what}")


def run_tests(*tests):
    """Runs them all, whatever they raise, prints "N passed, N failed" and exits."""
    for test in tests:
        attempt(test.__name__, test)
    failed, passed = _counts
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0 or passed == 0)


def attempt(what, call):
    """call(), or None where it raises: that is a failed check, and what comes after it still runs."""
    try:
        return call()
    except Exception as error:
        traceback.print_exc()
        words = str(error).strip() or "?"
        expect(False, f"{what} raised {type(error).__name__}: {words.splitlines()[0]}")
        return None
