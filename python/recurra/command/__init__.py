"""What ``recurra inspect``, ``convert``, ``verify``, ``run`` and ``bench FILE`` do with a model's file."""
