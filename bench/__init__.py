"""``python -m recurra bench``: what recurrent layers cost here, ours and others', beside the machine's own limits.

- `shapes.py` reads what to time from `shapes/*.txt`; `peers.py` sets up each library (`onnx_model.py` builds the models
  of those that read ONNX); `run.py` times them in turns; `limits.py` says what the machine forbids; `machine.py`
  describes it and watches how busy others keep it; `results.py` keeps, saves and compares what came out; `report.py`
  and `plots.py` show it; `cli.py` is the command line.
- `variants/` has the variants beside PyTorch: ``bench --shapes variants``.
- `pool.py` times thousands of live streams, and `soak.py` runs them for minutes: ``bench pool``.

The rest is run from a checkout: `gpu.py`, the benchmark of the GPU backend, with `gpu_*`, its parts; `properties.py`
with the models of `trained.py`; `costs.py`, `models.py`, `embedded.py`, `subnormals.py`, `torch_calls.py`; `plugins.py`
with `plugins.cpp`, exported code beside the library and peers; and `steps.cpp`, the micro-benchmark of single steps in
C++.
"""
