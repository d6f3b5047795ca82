"""Says on standard error what takes long, while it does."""
import contextlib
import sys
import threading

SLOW_S = 1.0                   # what ends sooner is not told of


@contextlib.contextmanager
def shown(what):
    """While the block runs: "tda: WHAT ..." once it has taken SLOW_S seconds; on a terminal the seconds count up."""
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(what, done, sys.stderr), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show(what, done, out):
    if done.wait(SLOW_S) or out is None:
        return
    if not out.isatty():
        print(f"tda: {what} ...", file=out, flush=True)
        return
    seconds = SLOW_S
    print(f"tda: {what} ...", end="", file=out, flush=True)
    while not done.wait(1.0):
        seconds += 1
        print(f"\rtda: {what} ... {seconds:.0f} s", end="", file=out, flush=True)
    print(file=out, flush=True)
