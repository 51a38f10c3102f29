"""`python -m bench quick` runs the short benchmarks one after another, `all` runs every one."""

import subprocess
import sys

QUICK = ("store_read", "store_write", "reward", "decode", "evaluate", "import_tsv", "scale")
SLOW = ("store_open", "step_memory", "train_step", "extract", "flickr8k")


def main() -> int:
    """Run each in its own process, so that none leaves threads or memory to the next."""
    which = sys.argv[1] if len(sys.argv) > 1 else "quick"
    if which not in ("quick", "all"):
        print("usage: python -m bench quick|all", file=sys.stderr)
        return 2
    names = QUICK if which == "quick" else QUICK + SLOW
    missed = [n for n in names if subprocess.run([sys.executable, "-m", f"bench.{n}"]).returncode]
    print(f"\n{len(names) - len(missed)} of {len(names)} benchmarks hold all their claims")
    if missed:
        print(f"with a miss: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
