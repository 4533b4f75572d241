"""Networks without torch: `export` writes a folder of ONNX graphs, `runtime` runs it.

`runtime` and what it imports need numpy, Pillow, tokenizers and onnxruntime alone.
"""
