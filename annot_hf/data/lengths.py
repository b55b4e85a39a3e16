"""Refuse audio files that end too early; correct the header of those that are longer than it says, as libsndfile trusts it."""

import io
import re
from typing import BinaryIO, Literal

from annot_hf.models.waves import AudioError

# Up to this many bytes after the stated end are a tag or padding, not audio.
JUNK = 512
# Start of the first chunk, bytes of a chunk's id and of its size, byte order, alignment, and the id of the sample chunk.
CHUNKS = {
    b"RIFF": (12, 4, 4, "little", 2, b"data"),
    b"RIFX": (12, 4, 4, "big", 2, b"data"),
    b"RF64": (12, 4, 4, "little", 2, b"data"),
    b"FORM": (12, 4, 4, "big", 2, b"SSND"),
    b"caff": (8, 4, 8, "big", 1, b"data"),
    b"riff": (40, 16, 8, "little", 8, b"data"),
}
# Offset of the size of the samples in an RF64 file.
DS64 = 28
# A streaming program does not know the size; it writes 0 or a value from here upwards.
STREAMED = 0x7FFF0000
# Sampling rates (Hz) of MPEG 1; MPEG 2 has a half of them, MPEG 2.5 a quarter.
MPEG_RATES = (44_100, 48_000, 32_000)
MPEG1_KBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MPEG2_KBITS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
# An empty tag.
ID3 = b"ID3\4\0\0\0\0\0\x10" + bytes(16)
# The sync word of a frame of layer III.
SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
# This many consecutive frames distinguish frames from other bytes that look like one.
IN_A_ROW = 3


def whole(name: str, handle: BinaryIO) -> BinaryIO:
    """The file, or a copy of it with a corrected header; raises if it ends too early, or has unreadable data after its end."""
    head = handle.read(64)
    size = handle.seek(0, io.SEEK_END)
    handle.seek(0)
    if head[:3] == b"ID3" or (head[0] == 0xFF and head[1:2] >= b"\xe0"):
        data = handle.read()
        start = _tags(data)
        if data[start : start + 4] == b"fLaC":
            handle = _flac(name, data[start:]) or io.BytesIO(data[start:])
        else:
            handle = _mp3(name, data, start)
    elif head[:4] == b"fLaC":
        handle = _flac(name, handle.read()) or handle
    elif head[:4] == b"OggS":
        _check_pages(name, handle, size)
    elif head[:4] in CHUNKS and (head[:4] in (b"caff", b"riff") or head[8:12] in (b"WAVE", b"AIFF", b"AIFC", b"")):
        handle = _chunked(name, handle, head, size)
    elif head[:4] in (b".snd", b"dns."):
        order = "big" if head[:4] == b".snd" else "little"
        start, stated = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
        if 0 < stated < STREAMED:
            _check_end(name, handle, start + stated, size)
    elif head[:8] == b"NIST_1A\n":
        text = handle.read(1024)
        keys = (b"sample_count", b"channel_count", b"sample_n_bytes")
        counts = [re.search(rb"%s -i (\d+)" % key, text) for key in keys]
        if all(counts) and text[8:16].strip().isdigit():
            samples, channels, width = (int(count[1]) for count in counts)
            _check_end(name, handle, int(text[8:16]) + samples * channels * width, size)
    handle.seek(0)
    return handle


def _cut(name: str, size: int) -> AudioError:
    return AudioError(f"{name} is truncated: its {size} bytes end too early. Copy the file again.")


def _goes_on(name: str, what: str) -> AudioError:
    return AudioError(f"{name} has {what}, which would be ignored. Write the file again as one recording.")


def _check_end(name: str, handle: BinaryIO, end: int, size: int) -> None:
    """Raise unless the file ends with its samples or its last chunk, apart from a tag or padding."""
    if end > size:
        raise _cut(name, size)
    handle.seek(end)
    if len(handle.read().strip(b"\0")) > JUNK:
        raise _goes_on(name, f"{size - end} bytes after its stated end")


def _chunked(name: str, handle: BinaryIO, head: bytes, size: int) -> BinaryIO:
    """A file of chunks (wav, aiff, caf, w64); one chunk holds the samples."""
    at, of_id, of_size, order, aligned, samples = CHUNKS[head[:4]]
    found = False
    while at + of_id + of_size <= size:
        handle.seek(at)
        kind, start = handle.read(of_id)[:4], at + of_id + of_size
        length = int.from_bytes(handle.read(of_size), order) - (start - at if of_id == 16 else 0)
        if kind == samples and not found:
            found, place, width = True, at + of_id, of_size
            if head[:4] == b"RF64":
                place, width, length = DS64, 8, int.from_bytes(head[DS64 : DS64 + 8], order)
            streamed = length >= STREAMED << 8 * width - 32 or (length < 1 and not _is_chunk(handle.read(4)))
            if streamed and size > start:
                return _with_size(handle, place, width, order, size - start + (start - at if of_id == 16 else 0))
            if start + length > size:
                raise _cut(name, size)
        elif start + length > size or (found and (kind in (samples, head[:4]) or not _is_chunk(kind))):
            break
        handle.seek(start + max(0, length))
        # Some programs leave the padding out.
        padding = handle.read(-length % aligned)
        at = start + max(0, length) + (0 if any(padding) else len(padding))
    if not found:
        raise _cut(name, size)
    _check_end(name, handle, at, size)
    return handle


def _is_chunk(kind: bytes) -> bool:
    return kind.isascii() and kind.decode().isprintable()


def _with_size(handle: BinaryIO, place: int, width: int, order: Literal["little", "big"], length: int) -> BinaryIO:
    """A copy whose header states the number of sample bytes; libsndfile knows only some placeholders."""
    if length >= STREAMED << 8 * width - 32:
        return handle
    handle.seek(0)
    data = bytearray(handle.read())
    data[place : place + width] = length.to_bytes(width, order)
    return io.BytesIO(data)


def _check_pages(name: str, handle: BinaryIO, size: int) -> None:
    """Raise unless an ogg file is one complete recording; libsndfile reads only the first one."""
    at, ended = 0, False
    while at < size:
        handle.seek(at)
        page = handle.read(27)
        if page[:4] != b"OggS":
            break
        segments = handle.read(page[26]) if len(page) == 27 else b""
        # 2 marks the first page of a stream, 4 the last.
        if ended and page[5] & 2:
            raise _goes_on(name, f"another recording from byte {at} on")
        ended = bool(page[5] & 4)
        at += 27 + len(segments) + sum(segments)
    if not ended:
        raise _cut(name, size)
    _check_end(name, handle, at, size)


def _flac(name: str, data: bytes) -> BinaryIO | None:
    """A flac file with a corrected header, None if it is right; the last frame states how many samples precede it."""
    again = data.find(b"fLaC\0\0\0\x22", 4)
    if again > 0:
        raise _goes_on(name, f"another recording from byte {again} on")
    first, last = 4, 0
    while not last and first + 4 <= len(data):
        last, first = data[first] & 0x80, first + 4 + int.from_bytes(data[first + 1 : first + 4])
    stated = int.from_bytes(data[21:26]) & (1 << 36) - 1
    if len(data) < first + 6:
        raise _cut(name, len(data))
    at, held = len(data) - 4, 0
    while not held and (at := data.rfind(data[first : first + 2], first, at)) >= first:
        if not (data[at + 2] ^ data[first + 2]) & 15 and not (data[at + 3] ^ data[first + 3]) & 15:
            held = _samples_until(data[at : at + 16], int.from_bytes(data[8:10]))
    if held < stated:
        raise _cut(name, len(data))
    if held == stated or not held:
        return None
    return io.BytesIO(
        data[:21] + (data[21] & 0xF0 | held >> 32).to_bytes() + (held & 0xFFFFFFFF).to_bytes(4) + data[26:]
    )


def _samples_until(frame: bytes, block: int) -> int:
    """Samples up to the end of a flac frame, by its header; 0 if it is none. Blocks of equal size have `block` samples."""
    code = frame[2] >> 4
    if not code:
        return 0
    longer = {6: 1, 7: 2}.get(code, 0)
    # The frame number is coded like a character in UTF-8.
    ones = 8 - (frame[4] ^ 0xFF).bit_length()
    number = frame[4] & 0xFF >> ones + 1
    at = 4 + max(1, ones)
    for byte in frame[5:at]:
        number = number << 6 | byte & 0x3F
    here = int.from_bytes(frame[at : at + longer]) + 1
    here = here if longer else 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    at += longer + {12: 1, 13: 2, 14: 2}.get(frame[2] & 15, 0)
    remainder = 0
    # The header ends with its CRC-8.
    for byte in frame[: at + 1]:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder << 1) ^ (0x107 if remainder & 0x80 else 0)
    return 0 if remainder else (number if frame[1] & 1 else number * block) + here


def _tags(data: bytes, at: int = 0) -> int:
    """The end of the ID3 tags that begin here."""
    while data[at : at + 3] in (b"ID3", b"TAG") and len(data) >= at + 10:
        length = 0
        for byte in data[at + 6 : at + 10]:
            length = length << 7 | byte & 0x7F
        at += 128 if data[at : at + 3] == b"TAG" else 10 + length + (10 if data[at + 5] & 0x10 else 0)
    return at


def _mp3(name: str, data: bytes, at: int) -> BinaryIO:
    """An MPEG layer III stream with an info frame that states the number of frames and a tag that names the format."""
    # Without an info frame, libsndfile guesses from the first frame's bit rate, and it trusts a wrong one.
    frames: list[bytes] = []
    while (start := _next_frame(data, _tags(data, at))) >= 0:
        between = data[at:start].lstrip(b"\0")
        if frames and between and not between.startswith(TAGS):
            raise AudioError(f"{name} is damaged at byte {at}, between its frames. Copy the file again.")
        if frames and _kind(data, start) != _kind(frames[0]):
            raise _goes_on(name, f"another sampling rate or number of channels from byte {start} on")
        at = start
        while (length := _frame_length(data, at)) and at + length <= len(data):
            if frames and _kind(data, at) != _kind(frames[0]):
                break
            frames.append(data[at : at + length])
            at += length
    if not frames:
        return io.BytesIO(data)
    rest = data[at:].strip(b"\0")
    if len(rest) > JUNK and not rest.startswith(TAGS):
        raise _goes_on(name, f"{len(rest)} bytes after its last frame")
    first, stated = frames[0], 0
    if _is_info(first):
        tag = max(first.find(b"Xing", 0, 64), first.find(b"Info", 0, 64))
        stated = int.from_bytes(first[tag + 8 : tag + 12] if tag > 0 and first[tag + 7] & 1 else first[50:54])
    if stated > len(frames) or rest[:1] == b"\xff":
        raise _cut(name, len(data))
    # Encoders differ in whether the info frame counts.
    if len(frames) - 2 <= stated:
        # The info frame also states how much to trim at both ends.
        return io.BytesIO(ID3 + b"".join(frames))
    frames = [frame for frame in frames if not _is_info(frame)]
    head = bytes([0xFF, first[1] | 1, 0x90 | first[2] & 12, first[3]])
    aside = (32, 17) if first[1] & 8 else (17, 9)
    info = head + bytes(aside[_kind(first)[2]]) + b"Xing" + (1).to_bytes(4) + len(frames).to_bytes(4)
    return io.BytesIO(ID3 + info.ljust(_frame_length(head), b"\0") + b"".join(frames))


def _next_frame(data: bytes, at: int) -> int:
    """Where consecutive frames begin, or -1; a single frame may end the file."""
    for found in SYNC.finditer(data, at):
        place, length = found.start(), 0
        for _ in range(IN_A_ROW):
            length = _frame_length(data, place)
            if not length or place + length > len(data) or _kind(data, place) != _kind(data, found.start()):
                break
            place += length
        else:
            return found.start()
        if place > found.start() and not length and (place == len(data) or data.startswith((b"\0", *TAGS), place)):
            return found.start()
    return -1


def _is_info(frame: bytes) -> bool:
    return b"Xing" in frame[:64] or b"Info" in frame[:64] or frame[36:40] == b"VBRI"


def _kind(data: bytes, at: int = 0) -> tuple[int, int, bool]:
    """What all frames of a recording share: version, sampling rate, and whether it is mono."""
    return data[at + 1] & 0xFE, data[at + 2] & 12, data[at + 3] >= 0xC0


def _frame_length(data: bytes, at: int = 0) -> int:
    """Bytes of the MPEG layer III frame that begins here, or 0."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:
        return 0
    version, code, rate = data[at + 1] >> 3 & 3, data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or rate == 3 or code in (0, 15):
        return 0
    bits = 144_000 * MPEG1_KBITS[code] if version == 3 else 72_000 * MPEG2_KBITS[code]
    return bits // (MPEG_RATES[rate] >> (3 - version if version else 2)) + (data[at + 2] >> 1 & 1)
