"""Labels a recorded pair with ONNX Runtime and NumPy alone, without PyTorch and without lapa.

lapa export --to onnx --checkpoint breakout --out onnx
python examples/label_with_onnx.py onnx bulk_videos/0/0.png bulk_videos/0/1.png
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image

folder, *pictures = sys.argv[1:]  # where encoder.onnx lies, and two consecutive frames
current, following = (np.asarray(Image.open(picture).convert("RGB"))[None] for picture in pictures)
session = onnxruntime.InferenceSession(f"{folder}/encoder.onnx", providers=["CPUExecutionProvider"])
codes, frame = session.run(None, {"current": current, "next": following})
print(codes[0])
