"""Deployed policies as C, ONNX, a web page, and bundles of all of them that prove themselves."""
