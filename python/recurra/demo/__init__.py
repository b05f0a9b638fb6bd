"""The demo behind ``python -m recurra demo``, its data, and the scripts that made them."""
