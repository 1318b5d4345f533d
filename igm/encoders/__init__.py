"""Encoders, and the models that are made of them.

small.py       for the book's small data; the paper's head; ``igm.build_model``
networks.py    the models of the paper's data sets: audio_video, text_image, gestures
build.py       one of these by name, with options that may be wrong
resnet.py, i3d.py, text_image.py, weights.py    their parts, and where pretrained weights come from
"""
