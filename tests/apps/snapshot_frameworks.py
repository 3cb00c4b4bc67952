"""Frameworks beside torch at the moment of a memory snapshot. Only for `make matrix-snapshots`."""

import modal
from snapshot_program import OPTIONS, Asked, Kept, Program, cases

app = modal.App("snapshot-frameworks")
image = (
    modal.Image.debian_slim(python_version="3.11")
    .uv_pip_install("jax", "tensorflow-cpu", "ray")
    .env({"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", "RAY_USAGE_STATS_ENABLED": "0"})
    .add_local_python_source("snapshot_program")
)


class Jax(Kept):
    what = "jax on CPUs: jit, an old shape and a new one"

    def load(self):
        import jax

        self.function = jax.jit(lambda x: (jax.numpy.sin(x) * 2 + jax.numpy.cos(x)).sum())
        self.sizes = [64]

    def compute(self):
        import jax

        self.sizes.append(self.sizes[-1] + 1)
        new, old = (float(self.function(jax.numpy.ones(size))) / size for size in (self.sizes[-1], 64))
        return round(new, 3), round(old, 3)


class JaxGradient(Kept):
    what = "jax, a gradient of matrices"

    def load(self):
        import jax

        self.matrix = jax.random.normal(jax.random.key(7), (256, 256))
        self.gradient = jax.jit(jax.grad(lambda m: jax.numpy.tanh(m @ m).sum()))

    def compute(self):
        return round(float(self.gradient(self.matrix).sum()), 2)


class Tensorflow(Kept):
    what = "tensorflow, tf.function, an old shape and a new one"

    def load(self):
        import tensorflow as tf

        self.function = tf.function(lambda x: tf.reduce_sum(tf.sin(x) * 2 + tf.cos(x)))
        self.sizes = [64]

    def compute(self):
        import tensorflow as tf

        self.sizes.append(self.sizes[-1] + 1)
        new, old = (float(self.function(tf.ones([size]))) / size for size in (self.sizes[-1], 64))
        return round(new, 3), round(old, 3)


class Keras(Kept):
    what = "keras, a model that predicts"

    def load(self):
        import keras
        import numpy

        keras.utils.set_random_seed(7)
        layers = [keras.layers.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)]
        self.model = keras.Sequential(layers)
        self.x = numpy.ones((4, 8), dtype="float32")

    def compute(self):
        return self.model.predict(self.x, verbose=0).round(3).tolist()


def start(**options):
    import ray

    ray.init(num_cpus=1, object_store_memory=100 << 20, include_dashboard=False, **options)


def ask():
    import ray

    def square(x):
        return x * x

    return ray.get(ray.remote(square).remote(3), timeout=120)


class RayAfter(Program):
    what, answer = "Ray, started after the snapshot", "9"

    def __init__(self):
        import ray  # noqa: F401

    def check(self):
        start()
        return ask()


class RayBefore(Program):
    what, answer = "Ray, started before the snapshot", "9"
    saved = False

    def __init__(self):
        start()
        ask()

    def check(self):
        return ask()


CASES = cases(globals())


@app.cls(image=image, **OPTIONS)
class Case(Asked):
    cases = CASES
    name: str = modal.parameter()
