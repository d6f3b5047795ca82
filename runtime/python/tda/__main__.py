"""python -m tda list|verify|clear: the cache of compiled specs."""
import sys
import time

from . import _cache


def main(words):
    if words not in (["list"], ["verify"], ["clear"]):
        print("usage: python -m tda list|verify|clear", file=sys.stderr)
        return 2
    found = _cache.entries()
    bad = 0
    for path, size, used in found:
        if words == ["clear"]:
            _cache.remove(path)
        elif words == ["list"]:
            print(f"{path.stem}  {size:>9} bytes  used {time.strftime('%Y-%m-%d %H:%M', time.localtime(used))}")
        elif _cache.read(path.stem) is None:
            bad += 1
            print(f"damaged, removed: {path}")
            _cache.remove(path)
    done = {"list": "", "verify": f", {bad} damaged", "clear": " removed"}[words[0]]
    print(f"{_cache.folder()}: {len(found)} entries, {sum(size for _, size, _ in found)} bytes{done}")
    return 1 if bad else 0


sys.exit(main(sys.argv[1:]))
