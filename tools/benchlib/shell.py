"""Other programs, which may be missing."""
import subprocess


def output_of(*command):
    """What the command prints, without the last newline; "" where it fails or does not exist."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
