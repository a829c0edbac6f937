"""Results for other programs: archives for test servers, ONNX."""
