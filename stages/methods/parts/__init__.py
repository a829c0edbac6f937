"""The shared parts of several papers: views, CutMix, strong-weak pairs, teachers, discriminators."""
