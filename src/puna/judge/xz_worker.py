"""xz's cost of each held-out document, one after another, after an optional priming text.

Comes in: ``xz_worker.py PRIME HELDOUT LENGTHS DICT``: two files, a JSON list of byte lengths, the window in bytes. Goes
out: a JSON list of file sizes in bytes on stdout: after the priming text, then after each length of held-out text.
Must never happen: an import of anything but the standard library. It runs as a script in a process of its own, because
an LZMA state can only be copied by forking, and a process with torch's threads must not fork.
"""

import json
import lzma
import os
import sys


def size_if_ended_here(compressor: lzma.LZMACompressor, written: int) -> int:
    """Bytes of the .xz file if the text ended now: a forked copy ends it, this process goes on."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, str(written + len(compressor.flush())).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(child, 0)
    if status != 0 or not answer:
        raise RuntimeError(f"the compressor's copy ended with status {status}")
    return int(answer)


def sizes(prime: bytes, heldout: bytes, lengths: list[int], window: int) -> list[int]:
    """File sizes in bytes: of the priming text alone, then with each further piece of held-out text."""
    # What `xz -9e` does, with a window that reaches back to the first byte of the priming text.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": window}]
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=filters)
    written = len(compressor.compress(prime))
    result, start = [size_if_ended_here(compressor, written)], 0
    for length in lengths:
        written += len(compressor.compress(heldout[start : start + length]))
        start += length
        result.append(size_if_ended_here(compressor, written))
    return result


def main(arguments: list[str]) -> None:
    """Read the files named on the command line, print the sizes."""
    prime_path, heldout_path, lengths_path, window = arguments
    with open(prime_path, "rb") as prime, open(heldout_path, "rb") as heldout, open(lengths_path, "rb") as lengths:
        json.dump(sizes(prime.read(), heldout.read(), json.load(lengths), int(window)), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
