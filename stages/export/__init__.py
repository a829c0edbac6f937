"""What leaves the product: archives for test servers, ONNX."""
