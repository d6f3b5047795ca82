"""What the Python tests share: a counter of checks."""
import sys

_counts = [0, 0]               # failed, passed


def expect(ok, what):
    """Counts one check; a failed one prints what was expected."""
    _counts[bool(ok)] += 1
    if not ok:
        print(f"FAILED: {what}")


def run_tests(*tests):
    """Runs them, prints "N passed, N failed" and exits."""
    for test in tests:
        test()
    failed, passed = _counts
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0 or passed == 0)
