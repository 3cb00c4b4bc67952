# For ComfyUI workflows (5 concurrent per container)
@app.cls(
    scaledown_window=300, # 5min keepalive
    gpu="L40S"
)
@modal.concurrent(max_inputs=5)
class ComfyUI:
    pass
# For high-throughput batch inference
@app.cls(scaledown_window=15*60) # 15min keepalive
@modal.concurrent(max_inputs=32, target_inputs=25)
class BatchInference:
    pass
